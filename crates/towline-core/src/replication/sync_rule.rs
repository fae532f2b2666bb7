//! The sync rule: which standbys an acknowledgement counts, and how many of them it needs.
//!
//! Written as PostgreSQL writes
//! [`synchronous_standby_names`](https://www.postgresql.org/docs/current/runtime-config-replication.html#GUC-SYNCHRONOUS-STANDBY-NAMES):
//! `FIRST k (a, b, c)`, `ANY k (a, b, c)`, `k (a, b)`, `a, b` (the first of them that is there), `*`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::types::limits::{MAX_NAME_BYTES, MAX_RULE_BYTES, MAX_STANDBYS};

/// How the standbys that count are chosen among the members.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// The first k that are streaming, in the order of the list.
    First,
    /// Any k of them, whichever are fastest.
    Any,
}

/// Which standbys are candidates.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Members {
    /// These, by name, in order of priority.
    List(Vec<String>),
    /// Every configured standby, in the order of the configuration.
    Star,
}

/// Which standbys an acknowledgement counts. "No rule" is the absence of one (see [`SyncRule::parse`]).
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct SyncRule {
    /// How the k are chosen.
    pub method: Method,
    /// How many are needed; at least 1.
    pub k: u16,
    /// Among whom.
    pub members: Members,
}

impl SyncRule {
    /// Reads a rule. An empty text is no rule: remote levels then behave as `local`.
    ///
    /// # Errors
    /// Names what is wrong and where (bytes from the start of the text).
    pub fn parse(text: &str) -> Result<Option<SyncRule>, RuleError> {
        if text.len() > MAX_RULE_BYTES {
            return Err(RuleError::TooLong { bytes: text.len() });
        }
        let mut scanner = Scanner { text, at: 0 };
        if scanner.peek()?.is_none() {
            return Ok(None);
        }
        let rule = scanner.rule()?;
        if let Some((at, extra)) = scanner.next()? {
            return Err(RuleError::Unexpected {
                at,
                found: extra.to_string(),
                expected: "the end of the rule",
            });
        }
        rule.check()?;
        Ok(Some(rule))
    }

    /// Whether the rule can be met by these standbys at all: every name is configured, and there are k of them.
    ///
    /// # Errors
    /// Names the unknown standby, or how many there are.
    pub fn check_against(&self, configured: &[&str]) -> Result<(), RuleError> {
        self.check()?;
        let candidates = match &self.members {
            Members::Star => configured.len(),
            Members::List(names) => {
                if let Some(name) = names.iter().find(|name| !configured.contains(&name.as_str())) {
                    let known = configured.join(", ");
                    return Err(RuleError::UnknownStandby { name: name.clone(), known });
                }
                names.len()
            }
        };
        if usize::from(self.k) > candidates {
            return Err(RuleError::TooFew { rule: self.to_string(), k: self.k, candidates });
        }
        Ok(())
    }

    /// What can be wrong with a rule by itself; one that was built by hand is checked by the gate, too.
    fn check(&self) -> Result<(), RuleError> {
        if self.k == 0 {
            return Err(RuleError::Zero);
        }
        let Members::List(names) = &self.members else { return Ok(()) };
        if names.is_empty() {
            return Err(RuleError::NoMembers);
        }
        if names.len() > MAX_STANDBYS {
            return Err(RuleError::TooMany { names: names.len() });
        }
        for (index, name) in names.iter().enumerate() {
            if name.is_empty() || name.len() > MAX_NAME_BYTES {
                return Err(RuleError::BadName { name: name.clone() });
            }
            if names[..index].contains(name) {
                return Err(RuleError::Duplicate { name: name.clone() });
            }
        }
        if usize::from(self.k) > names.len() {
            return Err(RuleError::TooFew { rule: self.to_string(), k: self.k, candidates: names.len() });
        }
        Ok(())
    }
}

impl FromStr for SyncRule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<SyncRule, RuleError> {
        SyncRule::parse(text)?.ok_or(RuleError::NoMembers)
    }
}

impl fmt::Display for SyncRule {
    /// The canonical form: keyword, number, members; names quoted where they need it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keyword = match self.method {
            Method::First => "FIRST",
            Method::Any => "ANY",
        };
        write!(f, "{keyword} {} (", self.k)?;
        match &self.members {
            Members::Star => f.write_str("*")?,
            Members::List(names) => {
                for (index, name) in names.iter().enumerate() {
                    let comma = if index == 0 { "" } else { ", " };
                    if is_plain(name) {
                        write!(f, "{comma}{name}")?;
                    } else {
                        write!(f, "{comma}\"{}\"", name.replace('"', "\"\""))?;
                    }
                }
            }
        }
        f.write_str(")")
    }
}

/// Why a text is no rule, or why a rule cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RuleError {
    /// Over the limit.
    #[error("the sync rule has {bytes} bytes; the limit is {MAX_RULE_BYTES}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// Something else was due here.
    #[error("sync rule, byte {at}: found {found}, expected {expected}")]
    Unexpected {
        /// Bytes from the start.
        at: usize,
        /// What stands there.
        found: String,
        /// What would be right.
        expected: &'static str,
    },
    /// A quoted name without its closing quote.
    #[error("sync rule, byte {at}: the quoted name has no closing quote")]
    Unclosed {
        /// Where it begins.
        at: usize,
    },
    /// A number that is too large.
    #[error("sync rule, byte {at}: {found} standbys are more than the limit of {MAX_STANDBYS}")]
    BadNumber {
        /// Bytes from the start.
        at: usize,
        /// The digits.
        found: String,
    },
    /// k = 0.
    #[error("a sync rule needs at least 1 standby; for no rule, give an empty text")]
    Zero,
    /// An empty list.
    #[error("the sync rule names no standby; for no rule, give an empty text")]
    NoMembers,
    /// More names than standbys can be configured.
    #[error("the sync rule names {names} standbys; the limit is {MAX_STANDBYS}")]
    TooMany {
        /// How many.
        names: usize,
    },
    /// A name that no standby can have.
    #[error("'{name}' is no standby name: use 1 to {MAX_NAME_BYTES} bytes")]
    BadName {
        /// The name.
        name: String,
    },
    /// One name twice: it would count once, and the rule would say more than it does.
    #[error("the sync rule names standby '{name}' twice; one standby counts once")]
    Duplicate {
        /// The name.
        name: String,
    },
    /// A name that is not configured.
    #[error("the sync rule names standby '{name}', which is not configured (configured: {known})")]
    UnknownStandby {
        /// The name.
        name: String,
        /// The names that are.
        known: String,
    },
    /// More wanted than there are.
    #[error(
        "the sync rule {rule} needs {k} standbys but has {candidates} to choose from: it could never be met"
    )]
    TooFew {
        /// The rule.
        rule: String,
        /// Wanted.
        k: u16,
        /// There.
        candidates: usize,
    },
}

/// One word of a rule.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Word {
    Open,
    Close,
    Comma,
    Star,
    Number(String),
    Plain(String),
    Quoted(String),
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Word::Open => f.write_str("'('"),
            Word::Close => f.write_str("')'"),
            Word::Comma => f.write_str("','"),
            Word::Star => f.write_str("'*'"),
            Word::Number(text) | Word::Plain(text) => write!(f, "'{text}'"),
            Word::Quoted(text) => write!(f, "\"{text}\""),
        }
    }
}

/// Reads words from left to right; the whole text is at most `MAX_RULE_BYTES` long.
struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

impl Scanner<'_> {
    fn rule(&mut self) -> Result<SyncRule, RuleError> {
        let method = match self.peek()? {
            // A standby may be called `first`: it is a keyword only before a number.
            Some((at, Word::Plain(word))) if self.number_follows()? => {
                match word.to_ascii_lowercase().as_str() {
                    "first" => Some(Method::First),
                    "any" => Some(Method::Any),
                    _ => return Err(unexpected(at, &Word::Plain(word), "FIRST or ANY before a number")),
                }
            }
            _ => None,
        };
        if method.is_some() {
            self.next()?;
        }
        if let Some((at, Word::Number(digits))) = self.peek()? {
            self.next()?;
            let k = digits.parse::<u16>().ok().filter(|k| usize::from(*k) <= MAX_STANDBYS);
            let k = k.ok_or(RuleError::BadNumber { at, found: digits })?;
            self.expect(Word::Open, "'('")?;
            let members = self.members()?;
            self.expect(Word::Close, "',' or ')'")?;
            return Ok(SyncRule { method: method.unwrap_or(Method::First), k, members });
        }
        Ok(SyncRule { method: Method::First, k: 1, members: self.members()? })
    }

    fn members(&mut self) -> Result<Members, RuleError> {
        let mut names = Vec::new();
        loop {
            match self.next()? {
                Some((at, Word::Star)) => {
                    let alone = !matches!(self.peek()?, Some((_, Word::Comma)));
                    if names.is_empty() && alone {
                        return Ok(Members::Star);
                    }
                    let expected = "a name ('*' stands alone: it is every standby)";
                    return Err(RuleError::Unexpected { at, found: "'*'".to_owned(), expected });
                }
                Some((_, Word::Plain(name) | Word::Quoted(name))) => names.push(name),
                Some((at, word)) => return Err(unexpected(at, &word, "a standby's name")),
                None => return Err(self.ended("a standby's name")),
            }
            if !matches!(self.peek()?, Some((_, Word::Comma))) {
                return Ok(Members::List(names));
            }
            self.next()?;
        }
    }

    fn expect(&mut self, wanted: Word, expected: &'static str) -> Result<(), RuleError> {
        match self.next()? {
            Some((_, word)) if word == wanted => Ok(()),
            Some((at, word)) => Err(unexpected(at, &word, expected)),
            None => Err(self.ended(expected)),
        }
    }

    fn ended(&self, expected: &'static str) -> RuleError {
        RuleError::Unexpected { at: self.text.len(), found: "the end".to_owned(), expected }
    }

    fn peek(&self) -> Result<Option<(usize, Word)>, RuleError> {
        Scanner { text: self.text, at: self.at }.next()
    }

    fn number_follows(&self) -> Result<bool, RuleError> {
        let mut ahead = Scanner { text: self.text, at: self.at };
        ahead.next()?;
        Ok(matches!(ahead.next()?, Some((_, Word::Number(_)))))
    }

    fn next(&mut self) -> Result<Option<(usize, Word)>, RuleError> {
        let rest = &self.text[self.at..];
        let at = self.at + (rest.len() - rest.trim_start().len());
        let rest = &self.text[at..];
        let Some(first) = rest.chars().next() else {
            self.at = at;
            return Ok(None);
        };
        let (word, bytes) = match first {
            '(' => (Word::Open, 1),
            ')' => (Word::Close, 1),
            ',' => (Word::Comma, 1),
            '*' => (Word::Star, 1),
            '"' => quoted(rest).ok_or(RuleError::Unclosed { at })?,
            _ if is_name_char(first) => {
                let bytes = rest.find(|c| !is_name_char(c)).unwrap_or(rest.len());
                let text = rest[..bytes].to_owned();
                let number = text.bytes().all(|byte| byte.is_ascii_digit());
                (if number { Word::Number(text) } else { Word::Plain(text) }, bytes)
            }
            _ => {
                let expected = "a name (quote it if it has such characters), a number, '(', ')', ',' or '*'";
                return Err(RuleError::Unexpected { at, found: format!("'{first}'"), expected });
            }
        };
        self.at = at + bytes;
        Ok(Some((at, word)))
    }
}

/// A quoted name at the start of `rest`, a doubled quote inside standing for one; and the bytes it takes.
fn quoted(rest: &str) -> Option<(Word, usize)> {
    let mut name = String::new();
    let mut chars = rest.char_indices().skip(1).peekable();
    while let Some((index, c)) = chars.next() {
        if c != '"' {
            name.push(c);
        } else if chars.peek().is_some_and(|(_, next)| *next == '"') {
            name.push('"');
            chars.next();
        } else {
            return Some((Word::Quoted(name), index + 1));
        }
    }
    None
}

fn unexpected(at: usize, word: &Word, expected: &'static str) -> RuleError {
    RuleError::Unexpected { at, found: word.to_string(), expected }
}

fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '$') || !c.is_ascii()
}

/// Whether a name needs no quotes; `first` and `any` are quoted for the reader's sake, a number by necessity.
fn is_plain(name: &str) -> bool {
    let keyword = name.eq_ignore_ascii_case("first") || name.eq_ignore_ascii_case("any");
    !keyword
        && name.chars().all(|c| is_name_char(c) && !c.is_whitespace())
        && !name.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        match SyncRule::parse(text) {
            Ok(Some(rule)) => rule.to_string(),
            Ok(None) => "none".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn every_written_form_has_one_canonical_form() {
        for (text, canonical) in [
            ("", "none"),
            ("  ", "none"),
            ("*", "FIRST 1 (*)"),
            ("a", "FIRST 1 (a)"),
            ("a, b", "FIRST 1 (a, b)"),
            ("2 (a,b)", "FIRST 2 (a, b)"),
            ("first 2 ( a , b )", "FIRST 2 (a, b)"),
            ("Any 1(a,b,c)", "ANY 1 (a, b, c)"),
            ("ANY 2 (*)", "ANY 2 (*)"),
            ("first, any", "FIRST 1 (\"first\", \"any\")"),
            ("\"a b\", \"say \"\"x\"\"\"", "FIRST 1 (\"a b\", \"say \"\"x\"\"\")"),
            ("\"42\"", "FIRST 1 (\"42\")"),
            ("node-1.example", "FIRST 1 (node-1.example)"),
        ] {
            assert_eq!(shown(text), canonical, "{text}");
            assert_eq!(shown(canonical.trim_start_matches("none")), canonical, "not a fixed point: {text}");
        }
    }

    #[test]
    fn errors_say_what_and_where() {
        for (text, says) in [
            ("ANY", "FIRST 1 (\"ANY\")"),
            ("SOME 1 (a)", "sync rule, byte 0: found 'SOME', expected FIRST or ANY before a number"),
            ("ANY 2", "sync rule, byte 5: found the end, expected '('"),
            ("ANY 0 (a)", "a sync rule needs at least 1 standby; for no rule, give an empty text"),
            (
                "ANY 3 (a, b)",
                "the sync rule ANY 3 (a, b) needs 3 standbys but has 2 to choose from: it could never be met",
            ),
            ("ANY 99 (a)", "sync rule, byte 4: 99 standbys are more than the limit of 16"),
            ("a, a", "the sync rule names standby 'a' twice; one standby counts once"),
            ("a,", "sync rule, byte 2: found the end, expected a standby's name"),
            ("a b", "sync rule, byte 2: found 'b', expected the end of the rule"),
            ("1 (a", "sync rule, byte 4: found the end, expected ',' or ')'"),
            ("1 ()", "sync rule, byte 3: found ')', expected a standby's name"),
            ("\"a", "sync rule, byte 0: the quoted name has no closing quote"),
            ("\"\"", "'' is no standby name: use 1 to 63 bytes"),
            ("a, *", "sync rule, byte 3: found '*', expected a name ('*' stands alone: it is every standby)"),
            ("*, a", "sync rule, byte 0: found '*', expected a name ('*' stands alone: it is every standby)"),
            (
                "a; b",
                "sync rule, byte 1: found ';', expected a name (quote it if it has such characters), a number, '(', ')', ',' or '*'",
            ),
        ] {
            assert_eq!(shown(text), says, "{text}");
        }
        assert_eq!(shown(&"a".repeat(2000)), "the sync rule has 2000 bytes; the limit is 1024");
        assert_eq!(
            shown(&"a".repeat(64)),
            format!("'{}' is no standby name: use 1 to 63 bytes", "a".repeat(64))
        );
    }

    #[test]
    fn a_rule_that_the_configured_standbys_cannot_meet_is_refused() {
        let check = |text: &str| SyncRule::parse(text).unwrap().unwrap().check_against(&["a", "b"]);
        assert_eq!(check("ANY 2 (a, b)"), Ok(()));
        assert_eq!(check("*"), Ok(()));
        assert!(matches!(check("ANY 3 (*)"), Err(RuleError::TooFew { k: 3, candidates: 2, .. })));
        assert!(matches!(check("a, c"), Err(RuleError::UnknownStandby { name, .. }) if name == "c"));
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics_and_what_parses_prints_as_itself(text in "\\PC{0,40}|[aAnNyYfirst0-9 (),*\"]{0,24}") {
            if let Ok(Some(rule)) = SyncRule::parse(&text) {
                proptest::prop_assert_eq!(SyncRule::parse(&rule.to_string()), Ok(Some(rule)));
            }
        }
    }
}
