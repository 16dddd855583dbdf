//! Which frame each node belongs to.

#![forbid(unsafe_code)]

use std::collections::HashMap;

use actorflow_core::error::{Error, Result};

use super::super::plan::{PlanSpec, Role, Source};

/// A loop, or the outermost frame, as it is known before it runs.
pub(super) struct FrameSpec {
    /// The loop's name; empty for the outermost frame.
    pub(super) name: String,
    /// The frame around it.
    pub(super) parent: usize,
    /// Which of the parent's loops it is.
    pub(super) child: usize,
    /// The number of loops directly inside.
    pub(super) children: usize,
    /// The number of `Enter` nodes that lead into it.
    pub(super) enters: u32,
    /// How many iterations may be in progress at once.
    pub(super) parallel: u32,
}

/// The frames of a plan.
pub(super) struct Frames {
    /// All frames; the first is the outermost one, a frame comes behind its parent.
    pub(super) list: Vec<FrameSpec>,
    /// In which frame each node fires. The outputs of an `Enter` are inside, those of an `Exit` outside of it.
    pub(super) of: Vec<usize>,
    /// For each `Enter` the frame that it leads into.
    pub(super) inside: Vec<usize>,
}

fn shown(name: &str) -> String {
    if name.is_empty() {
        "outside of any loop".to_owned()
    } else {
        format!("in loop {name:?}")
    }
}

/// Finds the frame of every node.
///
/// `order` is topological.
///
/// # Errors
/// `INVALID_ARGUMENT` naming both nodes of an edge that crosses the border of a loop other than by an `Enter` or
/// `Exit`; or naming an `Exit` or `NextIteration` outside of any loop, or a feed or fetch inside of one.
pub(super) fn frames(spec: &PlanSpec, order: &[usize]) -> Result<Frames> {
    let n = spec.nodes.len();
    let mut f = Frames {
        list: vec![FrameSpec {
            name: String::new(),
            parent: 0,
            child: 0,
            children: 0,
            enters: 0,
            parallel: 1,
        }],
        of: vec![0; n],
        inside: vec![0; n],
    };
    // The frame that a node's outputs are in.
    let mut out = vec![0usize; n];
    let mut by_name: HashMap<(usize, &str), usize> = HashMap::new();
    for &i in order {
        let node = &spec.nodes[i];
        let mut found: Option<(usize, Option<usize>)> = None;
        let data = node.inputs.iter().filter_map(|s| match s.source {
            Source::Node { node: from, .. } if spec.is_back_edge(from, i) => None,
            Source::Node { node: from, .. } => Some(Some(from)),
            Source::Feed(_) => Some(None),
        });
        for from in data.chain(node.control.iter().map(|c| Some(*c))) {
            let at = from.map_or(0, |from| out[from]);
            match found {
                None => found = Some((at, from)),
                Some((other, _)) if other == at => {}
                Some((other, first)) => {
                    let name = |from: Option<usize>| match from {
                        Some(from) => format!("{:?}", spec.nodes[from].info.name),
                        None => "a fed tensor".to_owned(),
                    };
                    return Err(node.info.blame(Error::invalid(format!(
                        "node {:?} has inputs from different frames: {} is {}, {} is {}; a value comes into a loop by \
                         an Enter and out of it by an Exit only (a constant of a loop's body needs a control input \
                         from the body)",
                        node.info.name,
                        name(first),
                        shown(&f.list[other].name),
                        name(from),
                        shown(&f.list[at].name),
                    ))));
                }
            }
        }
        let at = found.map_or(0, |(at, _)| at);
        f.of[i] = at;
        out[i] = match &node.role {
            Role::Enter {
                frame,
                parallel_iterations,
                ..
            } => {
                if *parallel_iterations == 0 {
                    return Err(node
                        .info
                        .blame(Error::invalid("parallel_iterations must be at least 1")));
                }
                let next = f.list.len();
                let inside = *by_name.entry((at, frame)).or_insert(next);
                if inside == next {
                    let child = f.list[at].children;
                    f.list[at].children += 1;
                    f.list.push(FrameSpec {
                        name: frame.to_string(),
                        parent: at,
                        child,
                        children: 0,
                        enters: 0,
                        parallel: *parallel_iterations,
                    });
                }
                f.list[inside].enters += 1;
                f.inside[i] = inside;
                inside
            }
            Role::Exit | Role::NextIteration if at == 0 => {
                return Err(node.info.blame(Error::invalid(format!(
                    "node {:?} is outside of any loop: its input does not come from an Enter",
                    node.info.name
                ))));
            }
            Role::Exit => f.list[at].parent,
            _ => at,
        };
    }
    for (i, node) in spec.nodes.iter().enumerate() {
        for input in &node.inputs {
            if let Source::Node { node: from, .. } = input.source
                && spec.is_back_edge(from, i)
                && out[from] != f.of[i]
            {
                return Err(node.info.blame(Error::invalid(format!(
                    "the back edge from {:?} to {:?} leads from one loop into another: the first is {}, the second {}",
                    spec.nodes[from].info.name,
                    node.info.name,
                    shown(&f.list[out[from]].name),
                    shown(&f.list[f.of[i]].name),
                ))));
            }
        }
    }
    for fetch in &spec.fetches {
        if let Source::Node { node, .. } = *fetch
            && out.get(node).is_some_and(|f| *f != 0)
        {
            let info = &spec.nodes[node].info;
            return Err(info.blame(Error::invalid(format!(
                "{:?} cannot be fetched: it is {}, where it has a value for each iteration; fetch a result of the loop",
                info.name,
                shown(&f.list[out[node]].name)
            ))));
        }
    }
    Ok(f)
}
