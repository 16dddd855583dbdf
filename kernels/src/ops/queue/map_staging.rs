//! `MapStage`, `MapUnstage` and their kin, and the `OrderedMap…` forms: a buffer between steps whose elements have keys.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::Arc;

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{KernelFn, OpDef};
use actorflow_core::{Tensor, register_ops};

use super::room::{At, Counter, Desk, Served, settle, submit};
use super::staging::{Limits, area_of, bytes_of, inputs_from, on_area};
use crate::shapes;

type Tuple = Vec<Option<Tensor>>;

enum Request {
    /// Values for some components of the tuple of a key.
    Put {
        key: i64,
        indices: Vec<usize>,
        values: Vec<Tensor>,
        /// The components of a whole tuple.
        width: usize,
    },
    /// Components of the tuple of a key (of the least, without one); `remove` takes them out.
    Get {
        key: Option<i64>,
        indices: Vec<usize>,
        remove: bool,
    },
}

struct Staging {
    whole: BTreeMap<i64, Tuple>,
    incomplete: BTreeMap<i64, Tuple>,
    bytes: usize,
    limits: Limits,
}

impl Staging {
    fn put(&mut self, key: i64, indices: &[usize], values: &[Tensor], width: usize) -> Result<()> {
        if let Some(i) = indices.iter().find(|i| **i >= width) {
            return Err(Error::invalid(format!(
                "index {i} is out of range: elements of the staging area have {width} components"
            )));
        }
        let tuple = self.incomplete.entry(key).or_insert_with(|| vec![None; width]);
        if tuple.len() != width {
            return Err(Error::invalid(format!(
                "the element of key {key} was begun with {} components, not {width}",
                tuple.len()
            )));
        }
        for (i, v) in indices.iter().zip(values) {
            if tuple[*i].is_some() {
                return Err(Error::invalid(format!(
                    "The tensor for index '{i}' for key '{key}' was already initialized"
                )));
            }
            tuple[*i] = Some(v.clone());
            self.bytes += v.byte_size();
        }
        if tuple.iter().all(Option::is_some)
            && let Some(t) = self.incomplete.remove(&key)
            && let Some(old) = self.whole.insert(key, t)
        {
            self.bytes -= bytes_of(old.iter().flatten());
        }
        Ok(())
    }

    fn get(&mut self, key: i64, indices: &[usize], remove: bool) -> Result<Vec<Tensor>> {
        let tuple = self
            .whole
            .get_mut(&key)
            .ok_or_else(|| Error::internal("a key was looked up and is gone"))?;
        let one = |i: &usize| {
            tuple.get(*i).cloned().flatten().ok_or_else(|| {
                Error::invalid(format!(
                    "The tensor at index '{i}' for key '{key}' has already been removed"
                ))
            })
        };
        let values = indices.iter().map(one).collect::<Result<Vec<_>>>()?;
        if remove {
            for i in indices {
                if let Some(t) = tuple[*i].take() {
                    self.bytes -= t.byte_size();
                }
            }
            if tuple.iter().all(Option::is_none) {
                self.whole.remove(&key);
            }
        }
        Ok(values)
    }
}

impl Counter for Staging {
    type Request = Request;
    type Info = ();
    const KIND: &'static str = "map staging area";
    const ORDERED: bool = false;

    fn line(request: &Request) -> usize {
        usize::from(matches!(request, Request::Get { .. }))
    }

    fn serve(&mut self, request: &mut Request, _: bool) -> Served {
        match request {
            Request::Put {
                key,
                indices,
                values,
                width,
            } => {
                let bytes = bytes_of(values.iter());
                if !self.limits.admit(self.whole.len(), self.bytes, bytes) {
                    return Served::Waits;
                }
                Served::Done(self.put(*key, indices, values, *width).map(|()| Vec::new()))
            }
            Request::Get { key, indices, remove } => {
                let found = match *key {
                    Some(k) => self.whole.contains_key(&k).then_some(k),
                    None => self.whole.keys().next().copied(),
                };
                let Some(k) = found else {
                    return Served::Waits;
                };
                let mut result = self.get(k, indices, *remove);
                if let (None, Ok(values)) = (*key, &mut result) {
                    values.insert(0, Tensor::scalar(k));
                }
                Served::Done(result)
            }
        }
    }

    fn withdraw(&mut self, _: Request) {}
}

fn area(
    init: &KernelInit<'_>,
) -> Result<impl Fn(&OpContext<'_>) -> Result<Arc<Desk<Staging>>> + Send + Sync + 'static> {
    area_of(init, |limits| Staging {
        whole: BTreeMap::new(),
        incomplete: BTreeMap::new(),
        bytes: 0,
        limits,
    })
}

fn indices(cx: &OpContext<'_>, i: usize, count: usize) -> Result<Vec<usize>> {
    let t = cx.input(i)?;
    let list: Vec<usize> = t
        .to_i64_vec()?
        .into_iter()
        .map(|i| usize::try_from(i).map_err(|_| Error::invalid(format!("index {i} is negative"))))
        .collect::<Result<_>>()?;
    let unique = list.iter().enumerate().all(|(k, i)| !list[..k].contains(i));
    if t.shape().rank() != 1 || list.len() != count || !unique {
        return Err(Error::invalid(format!(
            "indices must be a vector of {count} different numbers, one for each value, got {list:?}"
        )));
    }
    Ok(list)
}

fn key(cx: &OpContext<'_>) -> Result<i64> {
    let t = cx.input(0)?;
    match t.len() {
        1 => t.to_i64(),
        _ => Err(Error::invalid(format!(
            "key must be one int64, got shape {}",
            t.shape()
        ))),
    }
}

fn stage(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let limits = Limits::of(init)?;
    let width = init.attrs.dtypes("dtypes")?.len();
    Ok(Box::new(At::waits(area(init)?, move |cx, desk| {
        let values = inputs_from(cx, 2)?;
        limits.check(bytes_of(values.iter()))?;
        let request = Request::Put {
            key: key(cx)?,
            indices: indices(cx, 1, values.len())?,
            values,
            width,
        };
        submit(cx, desk, request)
    })))
}

fn get(init: &KernelInit<'_>, remove: bool) -> Result<Box<dyn Kernel>> {
    let width = init.attrs.dtypes("dtypes")?.len();
    Ok(Box::new(At::waits(area(init)?, move |cx, desk| {
        let request = Request::Get {
            key: Some(key(cx)?),
            indices: indices(cx, 1, width)?,
            remove,
        };
        submit(cx, desk, request)
    })))
}

fn get_no_key(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let width = init.attrs.dtypes("dtypes")?.len();
    Ok(Box::new(At::waits(area(init)?, move |cx, desk| {
        let request = Request::Get {
            key: None,
            indices: indices(cx, 0, width)?,
            remove: true,
        };
        submit(cx, desk, request)
    })))
}

fn sizes(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let incomplete = init.op.ends_with("IncompleteSize");
    Ok(Box::new(At::once(area(init)?, move |cx, desk| {
        let n = {
            let room = cx.state(desk.actor())?;
            match incomplete {
                true => room.counter.incomplete.len(),
                false => room.counter.whole.len(),
            }
        };
        cx.set_output(0, Tensor::scalar(i32::try_from(n).unwrap_or(i32::MAX)));
        Ok(())
    })))
}

fn clear(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    Ok(Box::new(At::once(area(init)?, |cx, desk| {
        settle(cx, desk, |room| {
            room.counter.whole.clear();
            room.counter.incomplete.clear();
            room.counter.bytes = 0;
            Ok(((), None))
        })
    })))
}

fn all([stage_op, peek, unstage, no_key, size, incomplete, clear_op]: [&'static str; 7]) -> Vec<OpDef> {
    let taking: KernelFn = |init| get(init, true);
    let reading: KernelFn = |init| get(init, false);
    vec![
        on_area(
            stage_op,
            "Puts components of the element of a key in; waits while it is full.",
            0,
            stage,
        )
        .input("key: int64")
        .input("indices: int32")
        .input("values: fake_dtypes")
        .attr("fake_dtypes: list(type) >= 1"),
        on_area(
            peek,
            "Reads components of the element of a key; waits until it is whole.",
            1,
            reading,
        )
        .input("key: int64")
        .input("indices: int32")
        .output("values: dtypes"),
        on_area(
            unstage,
            "Takes components of the element of a key; waits until it is whole.",
            1,
            taking,
        )
        .input("key: int64")
        .input("indices: int32")
        .output("values: dtypes"),
        on_area(
            no_key,
            "Takes components of the element of the least key; waits until there is one.",
            1,
            get_no_key,
        )
        .input("indices: int32")
        .output("key: int64")
        .output("values: dtypes"),
        on_area(size, "How many whole elements there are.", 0, sizes)
            .output("size: int32")
            .shape(shapes::scalar),
        on_area(incomplete, "How many elements are not whole.", 0, sizes)
            .output("size: int32")
            .shape(shapes::scalar),
        on_area(clear_op, "Removes all elements.", 0, clear),
    ]
}

fn maps() -> Vec<OpDef> {
    all([
        "MapStage",
        "MapPeek",
        "MapUnstage",
        "MapUnstageNoKey",
        "MapSize",
        "MapIncompleteSize",
        "MapClear",
    ])
}

fn ordered_maps() -> Vec<OpDef> {
    all([
        "OrderedMapStage",
        "OrderedMapPeek",
        "OrderedMapUnstage",
        "OrderedMapUnstageNoKey",
        "OrderedMapSize",
        "OrderedMapIncompleteSize",
        "OrderedMapClear",
    ])
}

register_ops!(all maps);
register_ops!(all ordered_maps);
