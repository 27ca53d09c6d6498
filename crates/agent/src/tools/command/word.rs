//! Words of a command: quoting, and what the shell makes something else of.

use super::{End, Parser, Unbound, Word};

impl Parser<'_> {
    /// Takes a word; the second is whether nothing in it was quoted.
    pub(super) fn word(&mut self) -> Result<(Word, bool), Unbound> {
        let (mut word, mut bare) = (Word::default(), true);
        while let Some(c) = self.peek() {
            match c {
                ' ' | '\t' | '\n' | ';' | '&' | '|' | '(' | ')' | '<' | '>' => break,
                '\'' => {
                    bare = false;
                    self.chars.next();
                    loop {
                        match self.chars.next() {
                            Some('\'') => break,
                            Some(c) => self.literal(&mut word, c)?,
                            None => return Err(Unbound("a quote does not end")),
                        }
                    }
                }
                '"' => {
                    bare = false;
                    self.chars.next();
                    self.quoted(&mut word)?;
                }
                '\\' => {
                    bare = false;
                    self.chars.next();
                    word.text.extend(Some(self.chars.next().ok_or(Unbound("it ends within a word"))?));
                }
                '$' => self.dollar(&mut word, true)?,
                '`' => return Err(Unbound("it has backquotes")),
                '*' | '?' | '[' | ']' | '~' | '{' | '}' | '^' | '!' | '=' | '+' | '@' => {
                    // A pattern, somebody's home, or what only some shells expand.
                    word.expands |= matches!(c, '*' | '?' | '[' | ']' | '~' | '{' | '}' | '^' | '+' | '@');
                    word.text.push(c);
                    self.chars.next();
                }
                c => {
                    word.text.push(c);
                    self.chars.next();
                }
            }
        }
        // Alone they are themselves.
        if bare && matches!(word.text.as_str(), "{" | "}" | "[" | "]" | "+" | "@" | "{}") {
            word.expands = false;
        }
        Ok((word, bare))
    }

    /// Takes what is within double quotes, and the last of them.
    fn quoted(&mut self, word: &mut Word) -> Result<(), Unbound> {
        loop {
            match self.peek() {
                None => return Err(Unbound("a quote does not end")),
                Some('"') => {
                    self.chars.next();
                    return Ok(());
                }
                Some('\\') => {
                    self.chars.next();
                    match self.chars.next() {
                        Some(c @ ('$' | '`' | '"' | '\\')) => word.text.push(c),
                        Some(c) => word.text.extend(['\\', c]),
                        None => return Err(Unbound("a quote does not end")),
                    }
                }
                Some('$') => self.dollar(word, false)?,
                Some('`') => return Err(Unbound("it has backquotes")),
                Some(c) => {
                    self.chars.next();
                    self.literal(word, c)?;
                }
            }
        }
    }

    /// A character within quotes.
    fn literal(&self, word: &mut Word, c: char) -> Result<(), Unbound> {
        if c == '\n' && !self.documents.is_empty() {
            return Err(Unbound("a quote goes on where a here-document begins"));
        }
        word.text.push(c);
        Ok(())
    }

    /// Takes a `$` and what it stands for.
    fn dollar(&mut self, word: &mut Word, unquoted: bool) -> Result<(), Unbound> {
        self.chars.next();
        let next = self.peek();
        match next {
            Some('(') => {
                self.chars.next();
                if self.peek() == Some('(') {
                    return Err(Unbound("it calculates"));
                }
                if !self.documents.is_empty() {
                    return Err(Unbound("a command is substituted before a here-document"));
                }
                self.list(End::Round)?;
                if !self.documents.is_empty() {
                    return Err(Unbound("a here-document does not end"));
                }
                word.text.push_str("$(…)");
            }
            Some('{') => {
                self.chars.next();
                let mut name = String::new();
                while self.chars.peek().is_some_and(|c| c.is_ascii_alphanumeric() || *c == '_') {
                    name.extend(self.chars.next());
                }
                if name.is_empty() || self.chars.next() != Some('}') {
                    return Err(Unbound("it changes a variable as it expands it"));
                }
                word.text.extend(["${", &name, "}"]);
            }
            Some(c) if c.is_ascii_alphabetic() || c == '_' => {
                word.text.push('$');
                while self.peek().is_some_and(|c| c.is_ascii_alphanumeric() || c == '_') {
                    word.text.extend(self.chars.next());
                }
            }
            Some(c) if c.is_ascii_digit() || "?#$!@*-".contains(c) => {
                self.chars.next();
                word.text.extend(['$', c]);
            }
            // `$'` and `$"` are two things in two shells.
            Some('\'' | '"') if unquoted => return Err(Unbound("it has quotes that not every shell knows")),
            Some('[') => return Err(Unbound("it calculates")),
            _ => {
                word.text.push('$');
                return Ok(());
            }
        }
        word.expands = true;
        Ok(())
    }
}
