//! The notation of `Einsum`: `ij,jk->ik`, with `...` for dimensions that broadcast.
#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};

/// The subscripts of one operand: letters, and where the ellipsis is.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Subscripts {
    /// In order, the ellipsis left out.
    pub(super) letters: Vec<char>,
    /// The number of letters in front of the ellipsis, if there is one.
    pub(super) ellipsis: Option<usize>,
}

/// A dimension's name: a letter, or a broadcasting dimension by its distance from the last one of the ellipsis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Label {
    Letter(char),
    Broadcast(usize),
}

impl Subscripts {
    fn parse(text: &str) -> Result<Subscripts> {
        let mut out = Subscripts::default();
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            if let Some(after) = rest.strip_prefix("...") {
                if out.ellipsis.replace(out.letters.len()).is_some() {
                    return Err(Error::invalid(format!(
                        "subscripts {text:?} have more than one ellipsis"
                    )));
                }
                rest = after;
                continue;
            }
            if c.is_ascii_alphabetic() {
                out.letters.push(c);
            } else if c != ' ' {
                return Err(Error::invalid(format!(
                    "subscripts {text:?} have {c:?}, which is no letter"
                )));
            }
            rest = &rest[c.len_utf8()..];
        }
        Ok(out)
    }

    /// The letters, each once, in the order of their first places.
    pub(super) fn unique(&self) -> Vec<char> {
        let mut out = Vec::new();
        for c in &self.letters {
            if !out.contains(c) {
                out.push(*c);
            }
        }
        out
    }

    /// The names of the dimensions of a tensor of this rank.
    pub(super) fn labels(&self, rank: usize) -> Result<Vec<Label>> {
        let wrong = || {
            Error::invalid(format!(
                "subscripts {:?} do not fit a tensor of rank {rank}",
                self.to_string()
            ))
        };
        let more = rank.checked_sub(self.letters.len()).ok_or_else(wrong)?;
        if more > 0 && self.ellipsis.is_none() {
            return Err(wrong());
        }
        Ok(self.with_broadcast(more))
    }

    /// The names of the dimensions where the ellipsis stands for `n`.
    pub(super) fn with_broadcast(&self, n: usize) -> Vec<Label> {
        let mut out: Vec<Label> = self.letters.iter().map(|c| Label::Letter(*c)).collect();
        if let Some(at) = self.ellipsis {
            out.splice(at..at, (0..n).rev().map(Label::Broadcast));
        }
        out
    }
}

impl std::fmt::Display for Subscripts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, c) in self.letters.iter().enumerate() {
            if self.ellipsis == Some(i) {
                f.write_str("...")?;
            }
            write!(f, "{c}")?;
        }
        if self.ellipsis == Some(self.letters.len()) {
            f.write_str("...")?;
        }
        Ok(())
    }
}

/// A parsed equation.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Equation {
    pub(super) inputs: Vec<Subscripts>,
    pub(super) output: Subscripts,
}

impl Equation {
    /// Parses an equation with its output.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` naming what is wrong.
    pub(super) fn parse(text: &str, inputs: usize) -> Result<Equation> {
        let wrong = |why: &str| Error::invalid(format!("einsum equation {text:?}: {why}"));
        let (left, right) = text
            .split_once("->")
            .ok_or_else(|| wrong("expecting exactly one '->', for example ij,jk->ik"))?;
        let operands: Vec<Subscripts> = left.split(',').map(Subscripts::parse).collect::<Result<_>>()?;
        if operands.len() != inputs {
            return Err(wrong(&format!(
                "it has {} inputs, but {inputs} are given",
                operands.len()
            )));
        }
        let output = Subscripts::parse(right)?;
        for c in &output.letters {
            if !operands.iter().any(|s| s.letters.contains(c)) {
                return Err(wrong(&format!("output label {c:?} is in no input")));
            }
        }
        if output.ellipsis.is_some() && operands.iter().all(|s| s.ellipsis.is_none()) {
            return Err(wrong("the output has an ellipsis, but no input"));
        }
        Ok(Equation {
            inputs: operands,
            output,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equations_are_parsed() {
        let e = Equation::parse("i...j, jk->...ik", 2).unwrap();
        assert_eq!(e.inputs[0].letters, ['i', 'j']);
        assert_eq!((e.inputs[0].ellipsis, e.output.ellipsis), (Some(1), Some(0)));
        assert_eq!(e.inputs[0].to_string(), "i...j");
        assert_eq!(
            e.inputs[0].labels(4).unwrap(),
            [
                Label::Letter('i'),
                Label::Broadcast(1),
                Label::Broadcast(0),
                Label::Letter('j')
            ]
        );
        assert!(e.inputs[1].labels(3).is_err() && e.inputs[0].labels(1).is_err());
        assert_eq!(Equation::parse("->", 1).unwrap().output, Subscripts::default());
    }

    #[test]
    fn malformed_equations_are_refused() {
        for (bad, n) in [
            ("ij,jk", 2),
            ("ij->ik", 1),
            ("ij,jk->ik", 1),
            ("i1->i", 1),
            ("......->", 1),
            ("i->...i", 1),
        ] {
            assert!(Equation::parse(bad, n).is_err(), "{bad}");
        }
    }
}
