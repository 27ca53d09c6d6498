//! What a shell command would run, as far as that can be told for certain.
//!
//! A part of the grammar that every `/bin/sh` reads alike: words with quoting, pipelines, `&&`, `||`, `;`, `&`, newlines, `!`,
//! subshells, groups, redirections, here-documents, and substituted commands. The threat is a command that reads harmless here
//! and is another one in the shell; so whatever is not of that part, or is read differently by two shells, is not understood,
//! and what is not understood is never allowed by a list.

mod word;

use std::{fmt, iter::Peekable, str::Chars};

/// The longest command that is looked into, and how deep one may be nested.
const LONGEST: usize = 64 * 1024;
const DEEPEST: usize = 16;

/// A word after all quoting is undone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Word {
    /// As it would be given to a program; of what is expanded, as it is written.
    pub(crate) text: String,
    /// The shell makes something else of it: a variable, a pattern, what a command prints.
    pub(crate) expands: bool,
}

/// Where a command reads from or writes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Redirection {
    /// As it is written, with its number.
    pub(crate) operator: String,
    /// A file, a number, or the text of a here-document.
    pub(crate) target: String,
}

impl Redirection {
    /// Does it touch nothing but what the command has already?
    pub(crate) fn is_inert(&self) -> bool {
        let number = self.target == "-" || self.target.bytes().all(|byte| byte.is_ascii_digit());
        self.target == "/dev/null" && !self.operator.contains("<<") || self.operator.ends_with('&') && number
    }
}

/// One program with its arguments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Simple {
    /// The first is the program's name; there is one, and it is not expanded.
    pub(crate) words: Vec<Word>,
    /// In their order.
    pub(crate) redirections: Vec<Redirection>,
}

/// Why a command is not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unbound(&'static str);

impl fmt::Display for Unbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// Begins something that is not of the part that is understood.
#[rustfmt::skip]
const RESERVED: [&str; 19] = [
    "if", "then", "else", "elif", "fi", "do", "done", "case", "esac", "while", "until", "for", "in", "function", "select",
    "time", "coproc", "[[", "]]",
];
/// Of the shell itself, and harmless: nothing that follows is another command because of them.
const BUILTINS: [&str; 6] = ["echo", "printf", "pwd", "true", "false", ":"];
/// Of the shell itself, and they change what follows, or are commands of their own.
#[rustfmt::skip]
const CHANGING: [&str; 56] = [
    ".", "source", "eval", "exec", "cd", "chdir", "pushd", "popd", "dirs", "export", "readonly", "unset", "set", "shift",
    "trap", "alias", "unalias", "command", "builtin", "hash", "type", "enable", "shopt", "declare", "typeset", "local", "let",
    "read", "mapfile", "readarray", "getopts", "return", "break", "continue", "exit", "logout", "wait", "umask", "ulimit",
    "bg", "fg", "jobs", "kill", "disown", "suspend", "test", "[", "times", "caller", "compgen", "complete", "compopt", "bind",
    "help", "history", "fc",
];

impl Simple {
    /// Its name as it is written.
    pub(crate) fn name(&self) -> &str {
        self.words.first().map_or("", |word| &word.text)
    }

    /// Is it run by the shell itself?
    pub(crate) fn is_builtin(&self) -> bool {
        BUILTINS.contains(&self.name())
    }

    /// Are all of its arguments known?
    pub(crate) fn is_whole(&self) -> bool {
        !self.words.iter().any(|word| word.expands)
    }
}

/// Every program that a command could run, in the order in which they are written.
pub(crate) fn parse(text: &str) -> Result<Vec<Simple>, Unbound> {
    if text.len() > LONGEST {
        return Err(Unbound("it is too long"));
    }
    if text.chars().any(|c| c.is_control() && c != '\n' && c != '\t') {
        return Err(Unbound("it has control characters"));
    }
    // A line that goes on in the next may not split what belongs together: shells put it together at other times.
    let splits = |at: usize| !text[..at].ends_with([' ', '\t']);
    if text.match_indices("\\\n").any(|(at, _)| splits(at)) {
        return Err(Unbound("a line goes on within a word"));
    }
    let mut parser =
        Parser { chars: text.chars().peekable(), found: Vec::new(), documents: Vec::new(), depth: 0 };
    parser.list(End::Text)?;
    if parser.found.is_empty() { Err(Unbound("it runs nothing")) } else { Ok(parser.found) }
}

/// What a list ends with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Text,
    Round,
    Curly,
}

/// What stands between two commands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Token {
    Separator,
    Newline,
    Join,
    Open,
    Close,
    Text,
    Word,
}

/// A here-document whose text comes after this line.
struct Document {
    /// Which command, and which of its redirections.
    of: (usize, usize),
    end: String,
    literal: bool,
    tabs: bool,
}

struct Parser<'a> {
    chars: Peekable<Chars<'a>>,
    found: Vec<Simple>,
    documents: Vec<Document>,
    depth: usize,
}

impl Parser<'_> {
    /// Commands up to this end, which is taken.
    fn list(&mut self, end: End) -> Result<(), Unbound> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(Unbound("it is nested too deep"));
        }
        let mut any = false;
        loop {
            self.newlines()?;
            if self.ends(end)? {
                break;
            }
            self.pipeline()?;
            any = true;
            match self.token()? {
                Token::Separator | Token::Newline => {}
                _ if self.ends_here(end) => {}
                _ => return Err(Unbound("its parts do not fit together")),
            }
        }
        self.depth -= 1;
        if any || end == End::Text { Ok(()) } else { Err(Unbound("it has an empty list")) }
    }

    /// Commands that are joined by `|`, `&&` and `||`.
    fn pipeline(&mut self) -> Result<(), Unbound> {
        loop {
            self.command()?;
            self.blanks();
            if self.peek() != Some('|') && !self.looks_at("&&") {
                return Ok(());
            }
            if self.token()? != Token::Join {
                return Err(Unbound("its parts do not fit together"));
            }
            self.newlines()?;
        }
    }

    fn command(&mut self) -> Result<(), Unbound> {
        self.blanks();
        if self.peek() == Some('(') {
            self.chars.next();
            // Some shells calculate what others take for two subshells.
            if self.peek() == Some('(') {
                return Err(Unbound("it calculates"));
            }
            self.list(End::Round)?;
            return self.after_group();
        }
        let first = self.found.len();
        self.found.push(Simple::default());
        loop {
            self.blanks();
            match self.peek_token() {
                Token::Word => {}
                Token::Open => return Err(Unbound("it defines a function")),
                _ => break,
            }
            if self.redirection(first)? {
                continue;
            }
            let begins = self.found[first].words.is_empty() && self.found[first].redirections.is_empty();
            let (word, bare) = self.word()?;
            if begins && bare && word.text == "!" {
                continue;
            }
            if begins && bare && word.text == "{" {
                self.found.remove(first);
                self.list(End::Curly)?;
                return self.after_group();
            }
            self.found[first].words.push(word);
            if self.found[first].words.len() == 1 {
                self.is_name(first)?;
            }
        }
        let simple = &self.found[first];
        if simple.name() == "printf"
            && simple.words[1..].iter().any(|word| word.expands || word.text.starts_with('-'))
        {
            // In some shells it can set a variable.
            return Err(Unbound("it changes the shell that runs it"));
        }
        if simple.words.is_empty() { Err(Unbound("a command is missing")) } else { Ok(()) }
    }

    /// Is the first word the name of a program?
    fn is_name(&self, at: usize) -> Result<(), Unbound> {
        let Word { text, expands } = &self.found[at].words[0];
        if *expands {
            return Err(Unbound("what it runs is not written in it"));
        }
        if text.contains('=') {
            return Err(Unbound("it sets variables"));
        }
        if RESERVED.contains(&text.as_str()) || matches!(text.as_str(), "{" | "}" | "!") {
            return Err(Unbound("it has loops, conditions or functions"));
        }
        if CHANGING.contains(&text.as_str()) {
            return Err(Unbound("it changes the shell that runs it"));
        }
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Unbound("what it runs has no plain name"));
        }
        Ok(())
    }

    /// Behind `)` or `}`: nothing but what joins it to others.
    fn after_group(&mut self) -> Result<(), Unbound> {
        self.blanks();
        match self.peek_token() {
            Token::Word | Token::Open => Err(Unbound("something follows a group")),
            _ => Ok(()),
        }
    }

    fn peek(&mut self) -> Option<char> {
        self.continued();
        self.chars.peek().copied()
    }

    /// Takes a line that goes on in the next.
    fn continued(&mut self) {
        while self.chars.peek() == Some(&'\\') {
            let mut ahead = self.chars.clone();
            ahead.next();
            if ahead.peek() != Some(&'\n') {
                return;
            }
            ahead.next();
            self.chars = ahead;
        }
    }

    fn looks_at(&mut self, text: &str) -> bool {
        self.continued();
        let mut ahead = self.chars.clone();
        text.chars().all(|wanted| ahead.next() == Some(wanted))
    }

    /// Takes blanks and a comment.
    fn blanks(&mut self) {
        while self.peek().is_some_and(|c| c == ' ' || c == '\t') {
            self.chars.next();
        }
        if self.peek() == Some('#') {
            while self.chars.peek().is_some_and(|c| *c != '\n') {
                self.chars.next();
            }
        }
    }

    /// Takes blanks, comments and ends of lines.
    fn newlines(&mut self) -> Result<(), Unbound> {
        loop {
            self.blanks();
            if self.peek() != Some('\n') {
                return Ok(());
            }
            self.newline()?;
        }
    }

    /// Takes an end of a line, and the here-documents that begin there.
    fn newline(&mut self) -> Result<(), Unbound> {
        self.chars.next();
        for document in std::mem::take(&mut self.documents) {
            self.document(&document)?;
        }
        Ok(())
    }

    fn document(&mut self, document: &Document) -> Result<(), Unbound> {
        let mut body = String::new();
        loop {
            let mut line = String::new();
            let whole = loop {
                match self.chars.next() {
                    Some('\n') => break true,
                    Some(c) => line.push(c),
                    None => break false,
                }
            };
            let line = if document.tabs { line.trim_start_matches('\t') } else { &line };
            if line == document.end {
                break;
            }
            if !whole {
                return Err(Unbound("a here-document does not end"));
            }
            body.push_str(line);
            body.push('\n');
        }
        if !document.literal && body.contains(['$', '`', '\\']) {
            return Err(Unbound("a here-document is expanded"));
        }
        let (command, redirection) = document.of;
        self.found[command].redirections[redirection].target = body;
        Ok(())
    }

    fn peek_token(&mut self) -> Token {
        match self.peek() {
            None => Token::Text,
            Some('\n') => Token::Newline,
            Some(';' | '&') => Token::Separator,
            Some('|') => Token::Join,
            Some('(') => Token::Open,
            Some(')') => Token::Close,
            Some(_) => Token::Word,
        }
    }

    /// Takes what stands between commands.
    fn token(&mut self) -> Result<Token, Unbound> {
        self.blanks();
        let token = self.peek_token();
        match token {
            Token::Newline => self.newline()?,
            Token::Separator | Token::Join => {
                let first = self.chars.next();
                let second = self.peek();
                match (first, second) {
                    (Some('&'), Some('&')) | (Some('|'), Some('|')) => {
                        self.chars.next();
                        if matches!(self.peek(), Some('&' | '|' | ';')) {
                            return Err(Unbound("its parts do not fit together"));
                        }
                        return Ok(Token::Join);
                    }
                    // `|&` and `&>` are two things in two shells.
                    (_, Some('&' | '>' | ';' | '|')) => {
                        return Err(Unbound("its parts do not fit together"));
                    }
                    _ => {}
                }
            }
            _ => {}
        }
        Ok(token)
    }

    fn ends(&mut self, end: End) -> Result<bool, Unbound> {
        match (end, self.peek()) {
            (End::Text, None) if self.documents.is_empty() => Ok(true),
            (_, None) => Err(Unbound("it does not end")),
            (End::Round, Some(')')) => {
                self.chars.next();
                Ok(true)
            }
            (End::Curly, Some('}')) => {
                self.chars.next();
                match self.peek() {
                    None | Some(' ' | '\t' | '\n' | ';' | '&' | '|' | ')') => Ok(true),
                    Some(_) => Err(Unbound("something follows a group")),
                }
            }
            _ => Ok(false),
        }
    }

    /// May a list that has this end stop here without a separator?
    fn ends_here(&mut self, end: End) -> bool {
        match end {
            End::Text => self.peek().is_none(),
            End::Round => self.peek() == Some(')'),
            End::Curly => false,
        }
    }

    /// Takes a redirection, if there is one here.
    fn redirection(&mut self, command: usize) -> Result<bool, Unbound> {
        self.continued();
        let mut ahead = self.chars.clone();
        let mut operator = String::new();
        while ahead.peek().is_some_and(char::is_ascii_digit) {
            operator.extend(ahead.next());
        }
        if !matches!(ahead.peek(), Some('<' | '>')) {
            return Ok(false);
        }
        if operator.len() > 1 {
            return Err(Unbound("it redirects by a long number"));
        }
        self.chars = ahead;
        operator.extend(self.chars.next());
        let direction = operator.pop().unwrap_or_default();
        let second = self.peek();
        let more = match (direction, second) {
            ('>', Some('>')) => ">>",
            ('>', Some('|')) => ">|",
            ('>', Some('&')) => ">&",
            ('<', Some('>')) => "<>",
            ('<', Some('&')) => "<&",
            ('<', Some('<')) => "<<",
            ('>', _) => ">",
            _ => "<",
        };
        operator.push_str(more);
        if more.len() == 2 {
            self.chars.next();
        }
        let tabs = more == "<<" && self.peek() == Some('-');
        if tabs {
            self.chars.next();
        }
        if matches!(self.peek(), Some('<' | '>' | '(' | '&')) {
            return Err(Unbound("it has a redirection that not every shell knows"));
        }
        self.blanks_only();
        if self.peek_token() != Token::Word || matches!(self.peek(), Some('<' | '>' | '#')) {
            return Err(Unbound("a redirection has no target"));
        }
        let (target, bare) = self.word()?;
        if target.expands {
            return Err(Unbound("where it redirects is not written in it"));
        }
        let descriptor = target.text == "-" || target.text.bytes().all(|byte| byte.is_ascii_digit());
        if more.ends_with('&') && !(descriptor && target.text.len() == 1) {
            return Err(Unbound("it has a redirection that not every shell knows"));
        }
        let redirections = &mut self.found[command].redirections;
        if more == "<<" {
            let of = (command, redirections.len());
            if target.text.contains('\n') {
                return Err(Unbound("a here-document does not end"));
            }
            self.documents.push(Document { of, end: target.text.clone(), literal: !bare, tabs });
        }
        redirections.push(Redirection { operator, target: target.text });
        Ok(true)
    }

    fn blanks_only(&mut self) {
        while self.peek().is_some_and(|c| c == ' ' || c == '\t') {
            self.chars.next();
        }
    }
}

#[cfg(test)]
mod tests;
