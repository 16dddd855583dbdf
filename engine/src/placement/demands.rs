//! What nodes ask for, and on which devices that leaves the groups which they are in.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use actorflow_core::graph::Node;
use actorflow_core::{DeviceName, Error, Result};

use super::groups::Groups;
use super::{DeviceInfo, Move, supports};

/// What a node asks for, in terms of the devices there are.
pub(super) struct Demand {
    /// The name, possibly partial.
    pub(super) name: DeviceName,
    /// Whether each device has that name and a kernel of the operation.
    pub(super) allowed: Vec<bool>,
    /// Whether each device has a kernel of the operation.
    pub(super) supported: Vec<bool>,
    candidates: Rc<[usize]>,
}

/// The demands of all nodes; equal ones are shared.
pub(super) struct Demands(Vec<Rc<Demand>>);

impl Demands {
    /// Reads what `nodes` ask for.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for a malformed device name, naming the node.
    pub(super) fn of(nodes: &[Arc<Node>], devices: &[DeviceInfo]) -> Result<Demands> {
        let mut known: HashMap<(&str, &str), Rc<Demand>> = HashMap::new();
        let mut all = Vec::with_capacity(nodes.len());
        for n in nodes {
            let key = (n.op_name(), n.device());
            if let Some(d) = known.get(&key) {
                all.push(d.clone());
                continue;
            }
            let name: DeviceName = n.device().parse().map_err(|e| n.blame(e))?;
            let supported: Vec<bool> = devices
                .iter()
                .map(|d| supports(n.def(), d.name.kind.as_deref().unwrap_or("")))
                .collect();
            let allowed: Vec<bool> = devices
                .iter()
                .zip(&supported)
                .map(|(d, s)| *s && name.accepts(&d.name))
                .collect();
            let d = Rc::new(Demand {
                name,
                supported,
                candidates: indices(&allowed),
                allowed,
            });
            known.insert(key, d.clone());
            all.push(d);
        }
        Ok(Demands(all))
    }

    /// What a node asks for.
    pub(super) fn get(&self, node: usize) -> &Demand {
        &self.0[node]
    }
}

fn indices(allowed: &[bool]) -> Rc<[usize]> {
    (0..allowed.len()).filter(|&d| allowed[d]).collect()
}

/// Nodes that have to be on one device while what they ask for, taken together, leaves none. No node can be left out.
#[derive(Debug)]
pub(super) struct Conflict {
    /// The nodes: one whose own demand cannot be met, or two or more.
    pub(super) nodes: Vec<usize>,
}

/// Where groups of nodes may go.
pub(super) struct Solver<'a> {
    pub(super) nodes: &'a [Arc<Node>],
    pub(super) devices: &'a [DeviceInfo],
    pub(super) demands: &'a Demands,
    pub(super) groups: &'a Groups,
    /// The devices of the first nodes, which were placed earlier and stay.
    pub(super) pinned: &'a [usize],
}

impl Solver<'_> {
    /// Whether node `n` can be on each device.
    fn allowed(&self, n: usize) -> Vec<bool> {
        match self.pinned.get(n) {
            Some(&pin) => (0..self.devices.len()).map(|d| d == pin).collect(),
            None => self.demands.get(n).allowed.clone(),
        }
    }

    /// The devices that all nodes of a group allow, in ascending order; never none.
    pub(super) fn candidates(&self, group: usize) -> Result<Rc<[usize]>, Conflict> {
        let members = self.groups.members(group);
        if let [n] = members {
            if let Some(&pin) = self.pinned.get(*n) {
                return Ok([pin].into());
            }
            let candidates = self.demands.get(*n).candidates.clone();
            return match candidates.is_empty() {
                true => Err(Conflict { nodes: vec![*n] }),
                false => Ok(candidates),
            };
        }
        let mut left = vec![true; self.devices.len()];
        for (i, &n) in members.iter().enumerate() {
            for (l, a) in left.iter_mut().zip(self.allowed(n)) {
                *l &= a;
            }
            if !left.contains(&true) {
                return Err(self.smallest(&members[..=i]));
            }
        }
        Ok(indices(&left))
    }

    /// Leaves out of nodes in conflict all that are not needed for it.
    fn smallest(&self, members: &[usize]) -> Conflict {
        // One node stands for all that ask for the same.
        let mut distinct: Vec<(usize, Vec<bool>)> = Vec::new();
        for &n in members {
            let a = self.allowed(n);
            if a.contains(&false) && !distinct.iter().any(|(_, b)| *b == a) {
                distinct.push((n, a));
            }
        }
        let mut i = 0;
        while i < distinct.len() {
            let none_left = (0..self.devices.len()).all(|d| {
                let mut others = distinct.iter().enumerate().filter(|(j, _)| *j != i);
                others.any(|(_, (_, a))| !a[d])
            });
            if none_left {
                distinct.remove(i);
            } else {
                i += 1;
            }
        }
        Conflict {
            nodes: distinct.into_iter().map(|(n, _)| n).collect(),
        }
    }

    /// The device for a group in conflict that is nearest to what its nodes ask for, and who moves to it.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if nodes that were placed earlier are on different devices, or no device has kernels for
    /// all of the operations: moving does not help then.
    pub(super) fn nearest(&self, group: usize, conflict: &Conflict) -> Result<(usize, Vec<Move>)> {
        let members = self.groups.members(group);
        let pins: Vec<usize> = members.iter().filter_map(|n| self.pinned.get(*n).copied()).collect();
        let possible = |d: &usize| {
            members
                .iter()
                .all(|&n| n < self.pinned.len() || self.demands.get(n).supported[*d])
                && pins.iter().all(|p| p == d)
        };
        let distance = |d: &usize| {
            let asking = members.iter().filter(|n| **n >= self.pinned.len());
            asking.fold(0u64, |sum, &n| {
                sum.saturating_add(mismatch(&self.demands.get(n).name, &self.devices[*d].name))
            })
        };
        let got = (0..self.devices.len())
            .filter(possible)
            .min_by_key(distance)
            .ok_or_else(|| self.error(conflict, true))?;
        let moves = members
            .iter()
            .filter(|n| **n >= self.pinned.len() && !self.demands.get(**n).allowed[got])
            .map(|&n| Move {
                node: self.nodes[n].id(),
                name: self.nodes[n].shared_name().clone(),
                asked: self.demands.get(n).name.clone(),
                got: self.devices[got].name.clone(),
                why: self.why_moved(n, conflict),
            })
            .collect();
        Ok((got, moves))
    }

    fn why_moved(&self, n: usize, conflict: &Conflict) -> String {
        let demand = self.demands.get(n);
        if !demand.allowed.contains(&true) {
            return self.why_none(n);
        }
        // The chain of reasons is told for the nodes in conflict only: a group can have any number of others.
        let told = conflict.nodes.contains(&n);
        let others: Vec<String> = conflict
            .nodes
            .iter()
            .filter(|o| **o != n)
            .map(|&o| match told {
                true => format!("{} ({})", self.asks(o), self.groups.why(self.nodes, n, o)),
                false => self.asks(o),
            })
            .collect();
        format!("it has to be on one device with others: {}", others.join("; "))
    }

    /// Why no device will do for a node alone.
    fn why_none(&self, n: usize) -> String {
        let demand = self.demands.get(n);
        if self.devices.iter().any(|d| demand.name.accepts(&d.name)) {
            let kind = demand.name.kind.as_deref().unwrap_or("these devices");
            format!("{} has no kernel for {kind}", self.nodes[n].op_name())
        } else {
            "there is no such device".to_owned()
        }
    }

    fn asks(&self, n: usize) -> String {
        let node = &self.nodes[n];
        let built = match node.location() {
            Some(l) => format!(", built at {}:{}:{},", l.file(), l.line(), l.column()),
            None => String::new(),
        };
        match self.pinned.get(n) {
            Some(&d) => format!(
                "{:?}{built} was placed on {} earlier",
                node.name(),
                self.devices[d].name
            ),
            None if self.demands.get(n).name.is_any() => {
                format!(
                    "{:?} ({}){built} has kernels for some kinds of devices only",
                    node.name(),
                    node.op_name()
                )
            }
            None => format!("{:?}{built} asks for \"{}\"", node.name(), self.demands.get(n).name),
        }
    }

    /// The error that names the nodes, what they ask for, why they are together, and the devices there are.
    pub(super) fn error(&self, conflict: &Conflict, soft: bool) -> Error {
        const SHOWN: usize = 16;
        let mut devices: Vec<String> = self.devices.iter().take(SHOWN).map(|d| d.name.to_string()).collect();
        if self.devices.len() > SHOWN {
            devices.push(format!("{} more", self.devices.len() - SHOWN));
        }
        let asked: Vec<String> = conflict.nodes.iter().map(|&n| self.asks(n)).collect();
        let devices = devices.join(", ");
        let or_soft = if soft { "" } else { ", or allow soft placement" };
        let Some((&last, rest)) = conflict.nodes.split_last() else {
            return Error::internal("a conflict of placement without nodes");
        };
        let message = if rest.is_empty() {
            format!(
                "{}, but {}; name one of the devices ({devices}){or_soft}",
                asked.join(""),
                self.why_none(last)
            )
        } else {
            let ties: Vec<String> = rest.iter().map(|&n| self.groups.why(self.nodes, n, last)).collect();
            format!(
                "nodes that have to be on one device leave none: {}. They are together because {}. Name devices that \
                 agree{or_soft}. The devices are: {devices}",
                asked.join("; "),
                ties.join(", ")
            )
        };
        self.nodes[last].blame(Error::invalid(message))
    }
}

/// How far a device is from what is asked for: another job is worse than another task of it, that is worse than another
/// kind of device, that than another one of the kind.
fn mismatch(asked: &DeviceName, has: &DeviceName) -> u64 {
    let part = |name: DeviceName, weight: u64| if name.accepts(has) { 0 } else { weight };
    let any = DeviceName::default;
    let job = DeviceName {
        job: asked.job.clone(),
        ..any()
    };
    let task = DeviceName {
        replica: asked.replica,
        task: asked.task,
        ..any()
    };
    let kind = DeviceName {
        kind: asked.kind.clone(),
        ..any()
    };
    let index = DeviceName {
        index: asked.index,
        ..any()
    };
    part(job, 8) + part(task, 4) + part(kind, 2) + part(index, 1)
}
