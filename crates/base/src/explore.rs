//! An exhaustive checker of pure machines, for tests: breadth first over everything that can happen.
//!
//! It owns the search and nothing of any machine. It is in `base` behind a feature, which only
//! dev-dependencies turn on, because `policy` and `tenants` both test with it and know no other crate in
//! common: no new arrow, and no line of it in the program. The threat it answers is the order of events that
//! nobody thought of.

use std::{
    collections::{HashMap, VecDeque},
    fmt::{self, Debug},
    hash::Hash,
    rc::Rc,
};

/// A machine in its world.
pub trait Model {
    /// All that is true at one moment, the machine's state included.
    type State: Eq + Hash + Debug;
    /// One thing that happens.
    type Move: Clone + Debug;

    /// Where it begins.
    fn starts(&self) -> Vec<Self::State>;
    /// Everything that can happen next, and what is true afterwards.
    fn moves(&self, state: &Self::State) -> Vec<(Self::Move, Self::State)>;
    /// Does this happen by itself? Not so: crashes, losses, people.
    fn is_calm(&self, step: &Self::Move) -> bool;
    /// What must never be true, and is here.
    fn wrong(&self, state: &Self::State) -> Option<String>;
    /// Has it come to what it should come to?
    fn at_rest(&self, state: &Self::State) -> bool;
}

/// How much was seen.
#[derive(Clone, Copy, Debug)]
pub struct Explored {
    /// States.
    pub states: usize,
    /// Moves between them.
    pub moves: usize,
    /// The longest of the shortest ways to a state.
    pub depth: usize,
    /// States at rest.
    pub at_rest: usize,
}

/// A shortest way to what must not be.
#[derive(Clone, Debug)]
pub struct Counterexample<M> {
    /// What is wrong at its end.
    pub why: String,
    /// What happens, in this order. No shorter way leads to anything that is wrong.
    pub path: Vec<M>,
    /// The state at its end.
    pub end: String,
}

impl fmt::Display for Explored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { states, moves, depth, at_rest } = self;
        write!(f, "{states} states ({at_rest} at rest), {moves} moves, {depth} deep")
    }
}

impl<M: Debug> fmt::Display for Counterexample<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}, after", self.why)?;
        self.path.iter().zip(1..).try_for_each(|(step, at)| writeln!(f, "{at:3}. {step:?}"))?;
        write!(f, "     {}", self.end)
    }
}

/// Sees every state that can be reached, or the first that is wrong. Wrong is also a state from which no calm
/// way leads to rest. Panics past `most` states: then the model is not bounded as it should be.
pub fn explore<M: Model>(model: &M, most: usize) -> Result<Explored, Box<Counterexample<M::Move>>> {
    let mut seen = Seen::<M> { known: HashMap::new(), states: Vec::new(), calm: Vec::new() };
    let mut todo: VecDeque<usize> = VecDeque::new();
    let mut moves = 0;
    for start in model.starts() {
        todo.extend(seen.add(start, None).1);
    }
    while let Some(at) = todo.pop_front() {
        let state = Rc::clone(&seen.states[at].state);
        if let Some(why) = model.wrong(&state) {
            return Err(Box::new(seen.way_to(at, why)));
        }
        for (step, next) in model.moves(&state) {
            moves += 1;
            let calm = model.is_calm(&step);
            let (to, new) = seen.add(next, Some((at, step)));
            if calm {
                seen.calm[to].push(at);
            }
            todo.extend(new);
        }
        assert!(seen.states.len() <= most, "past {most} states: the model is not bounded");
    }
    let resting = |at: &usize| model.at_rest(&seen.states[*at].state);
    let rest: Vec<usize> = (0..seen.states.len()).filter(resting).collect();
    let at_rest = rest.len();
    // In the order of discovery, so that the first is among the nearest.
    if let Some(lost) = seen.reaches(rest).iter().position(|reaches| !reaches) {
        return Err(Box::new(seen.way_to(lost, "it never comes to rest".to_owned())));
    }
    let depth = seen.states.last().map_or(0, |found| found.depth);
    Ok(Explored { states: seen.states.len(), moves, depth, at_rest })
}

/// Every state, in the order of discovery.
struct Seen<M: Model> {
    known: HashMap<Rc<M::State>, usize>,
    states: Vec<Found<M>>,
    /// Whence a calm move leads to each.
    calm: Vec<Vec<usize>>,
}

struct Found<M: Model> {
    state: Rc<M::State>,
    by: Option<(usize, M::Move)>,
    depth: usize,
}

impl<M: Model> Seen<M> {
    /// The state's number, and the same again if it is new.
    fn add(&mut self, state: M::State, by: Option<(usize, M::Move)>) -> (usize, Option<usize>) {
        if let Some(at) = self.known.get(&state) {
            return (*at, None);
        }
        let (at, state) = (self.states.len(), Rc::new(state));
        let depth = by.as_ref().map_or(0, |(from, _)| self.states[*from].depth + 1);
        self.known.insert(Rc::clone(&state), at);
        self.states.push(Found { state, by, depth });
        self.calm.push(Vec::new());
        (at, Some(at))
    }

    fn way_to(&self, end: usize, why: String) -> Counterexample<M::Move> {
        let mut path = Vec::new();
        let mut at = end;
        while let Some((from, step)) = &self.states[at].by {
            path.push(step.clone());
            at = *from;
        }
        path.reverse();
        Counterexample { why, path, end: format!("{:?}", self.states[end].state) }
    }

    /// From which states do calm moves lead to one of these?
    fn reaches(&self, mut goals: Vec<usize>) -> Vec<bool> {
        let mut reaches = vec![false; self.states.len()];
        for at in &goals {
            reaches[*at] = true;
        }
        while let Some(at) = goals.pop() {
            for from in &self.calm[at] {
                if !std::mem::replace(&mut reaches[*from], true) {
                    goals.push(*from);
                }
            }
        }
        reaches
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A walk over numbers: one up is calm, ten up is not.
    struct Walk {
        wrong: u32,
        rest: u32,
    }

    impl Model for Walk {
        type State = u32;
        type Move = u32;

        fn starts(&self) -> Vec<u32> {
            vec![0]
        }
        fn moves(&self, state: &u32) -> Vec<(u32, u32)> {
            [1, 10].into_iter().map(|by| (by, state + by)).filter(|(_, to)| *to < 40).collect()
        }
        fn is_calm(&self, step: &u32) -> bool {
            *step == 1
        }
        fn wrong(&self, state: &u32) -> Option<String> {
            (*state == self.wrong).then(|| "there it is".to_owned())
        }
        fn at_rest(&self, state: &u32) -> bool {
            *state == self.rest
        }
    }

    #[test]
    fn everything_is_seen_and_the_way_to_what_is_wrong_is_a_shortest() {
        let seen = explore(&Walk { wrong: 99, rest: 39 }, 100).unwrap();
        assert_eq!((seen.states, seen.moves, seen.depth, seen.at_rest), (40, 39 + 30, 12, 1));
        let found = explore(&Walk { wrong: 21, rest: 39 }, 100).unwrap_err();
        assert_eq!((found.path.len(), found.path.iter().sum::<u32>()), (3, 21), "{found}");
    }

    #[test]
    fn what_comes_to_rest_only_by_what_is_not_calm_is_wrong() {
        // Past 5 nothing calm leads back.
        let found = explore(&Walk { wrong: 99, rest: 5 }, 100).unwrap_err();
        assert_eq!(found.path, [10], "{found}");
    }
}
