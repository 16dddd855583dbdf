//! `RegexReplace`, `StaticRegexReplace`, `RegexFullMatch`, `StaticRegexFullMatch`.

use std::sync::Arc;

use actorflow_core::error::Result;
use actorflow_core::kernel::OpContext;
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{Tensor, register_ops};
use bytes::Bytes;
use parking_lot::Mutex;
use regex::bytes::Regex;

use super::pattern::{Rewrite, compile};
use super::support::{map, map_to, scalar};
use crate::shapes;

/// The last pattern that was compiled: it seldom changes.
struct Latest {
    whole: bool,
    last: Mutex<Option<(Bytes, Arc<Regex>)>>,
}

impl Latest {
    fn new(whole: bool) -> Self {
        Latest {
            whole,
            last: Mutex::new(None),
        }
    }

    fn get(&self, pattern: &Bytes) -> Result<Arc<Regex>> {
        let mut last = self.last.lock();
        if let Some((p, r)) = &*last
            && p == pattern
        {
            return Ok(r.clone());
        }
        let r = Arc::new(compile(pattern, self.whole)?);
        *last = Some((pattern.clone(), r.clone()));
        Ok(r)
    }
}

fn replaced(cx: &OpContext<'_>, pattern: &Regex, rewrite: &Rewrite, all: bool) -> Result<Tensor> {
    map(cx, 0, |s| {
        Ok(rewrite.apply(pattern, s, all).map_or_else(|| s.clone(), Bytes::from))
    })
}

fn regex_replace() -> OpDef {
    OpDef::new("RegexReplace", Category::String)
        .doc("Strings with every match (or the first) of a regular expression rewritten.")
        .input("input: string")
        .input("pattern: string")
        .input("rewrite: string")
        .output("output: string")
        .attr("replace_global: bool = true")
        .shape(|cx| {
            cx.input(1).with_rank(0)?;
            cx.input(2).with_rank(0)?;
            shapes::like_first(cx)
        })
        .not_differentiable()
        .cpu(|init| {
            let (all, latest) = (init.attrs.bool("replace_global")?, Latest::new(false));
            Ok(Box::new(move |cx: &mut OpContext<'_>| {
                let pattern = latest.get(scalar(cx, 1, "the pattern")?)?;
                let rewrite = Rewrite::new(scalar(cx, 2, "the rewrite")?);
                let t = replaced(cx, &pattern, &rewrite, all)?;
                cx.set_output(0, t);
                Ok(())
            }))
        })
}

fn static_regex_replace() -> OpDef {
    OpDef::new("StaticRegexReplace", Category::String)
        .doc("Strings with every match (or the first) of a fixed regular expression rewritten.")
        .input("input: string")
        .output("output: string")
        .attr("pattern: string")
        .attr("rewrite: string")
        .attr("replace_global: bool = true")
        .shape(shapes::unchanged)
        .not_differentiable()
        .cpu(|init| {
            let pattern = compile(init.attrs.byte_string("pattern")?, false)?;
            let rewrite = Rewrite::new(init.attrs.byte_string("rewrite")?);
            let all = init.attrs.bool("replace_global")?;
            Ok(Box::new(move |cx: &mut OpContext<'_>| {
                let t = replaced(cx, &pattern, &rewrite, all)?;
                cx.set_output(0, t);
                Ok(())
            }))
        })
}

fn regex_full_match() -> OpDef {
    OpDef::new("RegexFullMatch", Category::String)
        .doc("Whether a regular expression matches whole strings.")
        .input("input: string")
        .input("pattern: string")
        .output("output: bool")
        .shape(|cx| {
            cx.input(1).with_rank(0)?;
            shapes::like_first(cx)
        })
        .not_differentiable()
        .cpu(|_| {
            let latest = Latest::new(true);
            Ok(Box::new(move |cx: &mut OpContext<'_>| {
                let pattern = latest.get(scalar(cx, 1, "the pattern")?)?;
                let t = map_to::<bool>(cx, 0, |s| Ok(pattern.is_match(s)))?;
                cx.set_output(0, t);
                Ok(())
            }))
        })
}

fn static_regex_full_match() -> OpDef {
    OpDef::new("StaticRegexFullMatch", Category::String)
        .doc("Whether a fixed regular expression matches whole strings.")
        .input("input: string")
        .output("output: bool")
        .attr("pattern: string")
        .shape(shapes::unchanged)
        .not_differentiable()
        .cpu(|init| {
            let pattern = compile(init.attrs.byte_string("pattern")?, true)?;
            Ok(Box::new(move |cx: &mut OpContext<'_>| {
                let t = map_to::<bool>(cx, 0, |s| Ok(pattern.is_match(s)))?;
                cx.set_output(0, t);
                Ok(())
            }))
        })
}

register_ops!(
    regex_replace,
    static_regex_replace,
    regex_full_match,
    static_regex_full_match
);

#[cfg(test)]
mod tests {
    use crate::testing::{eval, fails};
    use actorflow_core::{Code, Graph, Tensor};

    #[test]
    fn the_pattern_is_an_input_or_an_attribute() {
        let g = Graph::new();
        let x = g.constant(Tensor::strings([2], vec!["a1b22", "xyz"]).unwrap()).unwrap();
        let (p, r) = (g.constant("[0-9]+").unwrap(), g.constant("<\\0>").unwrap());
        let y = g
            .op("RegexReplace")
            .input(&x)
            .input(&p)
            .input(&r)
            .attr("replace_global", false)
            .output()
            .unwrap();
        assert_eq!(eval(&y), Tensor::strings([2], vec!["a<1>b22", "xyz"]).unwrap());
        let y = g
            .op("StaticRegexFullMatch")
            .input(&x)
            .attr("pattern", "[a-z]+")
            .output()
            .unwrap();
        assert_eq!(eval(&y), Tensor::from([false, true]));
        let bad = g.constant("(").unwrap();
        let y = g.op("RegexFullMatch").input(&x).input(&bad).output().unwrap();
        assert_eq!(fails(&y).code(), Code::InvalidArgument);
    }
}
