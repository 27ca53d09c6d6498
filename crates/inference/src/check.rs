//! The checks of what a cell asks a provider, each by a name of its own, so that tests can show that each is missed.
//!
//! Not among them is what the types insist on: a path that is not served becomes no call, and a call is written anew
//! from its parsed fields.

cofferdam_base::checks! {
    /// A body ends at its cap.
    BodyLength,
    /// No key of a body is given twice.
    KeyOnce,
    /// Nor one further inside, where a provider acts on it.
    KeyOnceInside,
    /// A key has no character that folds into another.
    KeyPlain,
    /// A key has no capitals where its API has none.
    KeyLow,
    /// A provider is not told to fetch, run or keep something.
    Harmless,
    /// A provider keeps no answers that nobody asked it to keep.
    KeepsNothing,
    /// The model is the route's.
    RouteModel,
    /// A field of the query is known.
    QueryKnown,
    /// The cell's headers stay, its credentials among them.
    HeadersStay,
    /// What opens fields of a body to a provider is one plain header.
    BetaPlain,
    /// A bound on an answer is a number that we read too.
    BoundRead,
    /// What is kept of a translated answer is bounded.
    AnswerBounded,
}
