//! `EmptyTensorMap`, `TensorMapSize`, `TensorMapLookup`, `TensorMapInsert`, `TensorMapErase`, `TensorMapHasKey`,
//! `TensorMapStackKeys`: maps and their keys.
#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::gradient::{Grad, GradContext};
use actorflow_core::kernel::OpContext;
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{DType, Graph, Operation, Output, Shape, Tensor, register_ops};

use super::map::{Key, TensorMap, map, take};
use crate::ops::array::support::Light;
use crate::shapes;

fn operation(name: &'static str) -> OpDef {
    OpDef::new(name, Category::Array)
}

/// The error of a key that is not in the map.
fn missing(what: &str, key: &Tensor) -> Error {
    Error::invalid(format!(
        "trying to {what}: could not find key {key:?}; ask TensorMapHasKey before"
    ))
}

fn empty() -> OpDef {
    operation("EmptyTensorMap")
        .doc("A map without keys.")
        .output("handle: variant")
        .shape(shapes::scalar)
        .not_differentiable()
        .cpu(|_| {
            Ok(Box::new(Light(|cx: &mut OpContext<'_>| {
                cx.set_output(0, TensorMap::default().into_tensor()?);
                Ok(())
            })))
        })
}

fn size() -> OpDef {
    operation("TensorMapSize")
        .doc("The number of keys of the map.")
        .input("input_handle: variant")
        .output("size: int32")
        .shape(shapes::scalar)
        .not_differentiable()
        .cpu(|_| {
            Ok(Box::new(Light(|cx: &mut OpContext<'_>| {
                let n = i32::try_from(map(cx, 0)?.len());
                let n = n.map_err(|_| Error::invalid("the size does not fit an int32"))?;
                cx.set_output(0, Tensor::scalar(n));
                Ok(())
            })))
        })
}

fn lookup() -> OpDef {
    operation("TensorMapLookup")
        .doc("The value of a key, which must be in the map.")
        .input("input_handle: variant")
        .input("key: key_dtype")
        .output("value: value_dtype")
        .attr("key_dtype: type")
        .attr("value_dtype: type")
        .shape(shapes::unknown)
        .gradient(lookup_grad)
        .cpu(|init| {
            let dtype = init.attrs.dtype("value_dtype")?;
            Ok(Box::new(Light(move |cx: &mut OpContext<'_>| {
                let key = cx.input(1)?;
                let value = map(cx, 0)?
                    .get(&Key::of(key)?)
                    .ok_or_else(|| missing("lookup non-existent key", key))?;
                if value.dtype() != dtype {
                    return Err(Error::invalid(format!(
                        "the value of key {key:?} is of {}, but value_dtype is {dtype}",
                        value.dtype()
                    )));
                }
                let value = value.clone();
                cx.set_output(0, value);
                Ok(())
            })))
        })
        .sample(|s| {
            let x = s.normal([2])?;
            let m = insert_into(&start(s.graph())?, &s.constant("a")?, &x)?;
            last(&looked_up(&m, &s.constant("a")?, DType::F64)?)
        })
}

fn insert() -> OpDef {
    operation("TensorMapInsert")
        .doc("The map with the value of one key set, whether it had that key or not.")
        .input("input_handle: variant")
        .input("key: key_dtype")
        .input("value: value_dtype")
        .output("output_handle: variant")
        .attr("key_dtype: type")
        .attr("value_dtype: type")
        .shape(shapes::scalar)
        .gradient(insert_grad)
        .cpu(|_| {
            Ok(Box::new(Light(|cx: &mut OpContext<'_>| {
                let mut m = take(cx, 0)?;
                let key = cx.take_input(1)?;
                m.insert(key, cx.take_input(2)?)?;
                cx.set_output(0, m.into_tensor()?);
                Ok(())
            })))
        })
        .sample(|s| {
            let (x, y) = (s.normal([2])?, s.normal([2])?);
            let (a, b) = (s.constant(1i32)?, s.constant(2i32)?);
            let m = insert_into(&insert_into(&start(s.graph())?, &a, &x)?, &b, &y)?;
            let replaced = insert_into(&m, &a, &y)?;
            let sum = looked_up(&replaced, &a, DType::F64)?.plus(&looked_up(&m, &a, DType::F64)?.square()?)?;
            last(&sum)
        })
}

fn erase() -> OpDef {
    operation("TensorMapErase")
        .doc("The map without one of its keys, which must be in it.")
        .input("input_handle: variant")
        .input("key: key_dtype")
        .output("output_handle: variant")
        .attr("key_dtype: type")
        .attr("value_dtype: type")
        .shape(shapes::scalar)
        .gradient(|cx, dys| Ok(vec![Some(cx.dense(dys, 0)?.into()), None]))
        .cpu(|_| {
            Ok(Box::new(Light(|cx: &mut OpContext<'_>| {
                let key = Key::of(cx.input(1)?)?;
                if map(cx, 0)?.get(&key).is_none() {
                    return Err(missing("erase non-existent item", cx.input(1)?));
                }
                let mut m = take(cx, 0)?;
                m.remove(&key);
                cx.set_output(0, m.into_tensor()?);
                Ok(())
            })))
        })
        .sample(|s| {
            let (x, y) = (s.normal([2])?, s.normal([2])?);
            let (a, b) = (s.constant(1i32)?, s.constant(2i32)?);
            let m = insert_into(&insert_into(&start(s.graph())?, &a, &x)?, &b, &y)?;
            last(&looked_up(&erased(&m, &b, DType::F64)?, &a, DType::F64)?)
        })
}

fn has_key() -> OpDef {
    operation("TensorMapHasKey")
        .doc("Whether the map has a key.")
        .input("input_handle: variant")
        .input("key: key_dtype")
        .output("has_key: bool")
        .attr("key_dtype: type")
        .shape(shapes::scalar)
        .not_differentiable()
        .cpu(|_| {
            Ok(Box::new(Light(|cx: &mut OpContext<'_>| {
                let found = map(cx, 0)?.get(&Key::of(cx.input(1)?)?).is_some();
                cx.set_output(0, Tensor::scalar(found));
                Ok(())
            })))
        })
}

fn stack_keys() -> OpDef {
    operation("TensorMapStackKeys")
        .doc("All keys of the map, which must be of one shape, as the rows of a tensor; sorted by their bytes.")
        .input("input_handle: variant")
        .output("keys: key_dtype")
        .attr("key_dtype: type")
        .shape(shapes::unknown)
        .not_differentiable()
        .cpu(|init| {
            let dtype = init.attrs.dtype("key_dtype")?;
            Ok(Box::new(move |cx: &mut OpContext<'_>| {
                let keys = stacked(cx, dtype)?;
                cx.set_output(0, keys);
                Ok(())
            }))
        })
}

fn stacked(cx: &OpContext<'_>, dtype: DType) -> Result<Tensor> {
    let m = map(cx, 0)?;
    let Some(first) = m.keys().next() else {
        return Err(Error::invalid("TensorMapStackKeys cannot be called on an empty map"));
    };
    for key in m.keys() {
        if key.dtype() != dtype {
            return Err(Error::invalid(format!(
                "key {key:?} is of {}, not of the requested dtype {dtype}",
                key.dtype()
            )));
        }
        if key.shape() != first.shape() {
            return Err(Error::invalid(format!(
                "keys must all have the same shape, but these have {} and {}",
                first.shape(),
                key.shape()
            )));
        }
    }
    let shape: Shape = [m.len()].into_iter().chain(first.shape().iter().copied()).collect();
    shape.checked_count()?;
    if dtype == DType::Str {
        let mut all = Vec::new();
        for key in m.keys() {
            all.extend(key.as_strings()?.iter().cloned());
        }
        return Tensor::strings(shape, all);
    }
    let mut out = cx.alloc(dtype, shape)?;
    let to = out
        .bytes_mut()
        .ok_or_else(|| Error::internal("a new tensor must be writable"))?;
    let each = first.byte_size();
    if each > 0 {
        for (to, key) in to.chunks_exact_mut(each).zip(m.keys()) {
            if let Some(from) = key.bytes() {
                to.copy_from_slice(from);
            }
        }
    }
    Ok(out)
}

fn start(g: &Graph) -> Result<Output> {
    g.op("EmptyTensorMap").output()
}

fn insert_into(m: &Output, key: &Output, value: &Output) -> Result<Output> {
    let op = m.graph().op("TensorMapInsert").input(m).input(key);
    op.input(value).output()
}

fn looked_up(m: &Output, key: &Output, dtype: DType) -> Result<Output> {
    let op = m.graph().op("TensorMapLookup").input(m).input(key);
    op.attr("value_dtype", dtype).output()
}

fn erased(m: &Output, key: &Output, dtype: DType) -> Result<Output> {
    let op = m.graph().op("TensorMapErase").input(m).input(key);
    op.attr("value_dtype", dtype).output()
}

/// The operation that a sample ends with.
fn last(x: &Output) -> Result<Operation> {
    x.graph().op("Identity").input(x).finish()
}

/// A map with the gradient of the one value that was looked up.
fn lookup_grad(cx: &GradContext, dys: &[Option<Grad>]) -> Result<Vec<Option<Grad>>> {
    let dm = insert_into(&start(cx.graph())?, &cx.input(1)?, &cx.dense(dys, 0)?)?;
    Ok(vec![Some(dm.into()), None])
}

/// What the gradient has under the key belongs to the value, the rest to the map. A gradient that does not have the key
/// gets a zero for it by a sum, where TensorFlow decides between two branches.
fn insert_grad(cx: &GradContext, dys: &[Option<Grad>]) -> Result<Vec<Option<Grad>>> {
    let (g, key, value) = (cx.graph(), cx.input(1)?, cx.input(2)?);
    let zero = insert_into(&start(g)?, &key, &value.zeros_like()?)?;
    let both = g.add_n(&[cx.dense(dys, 0)?, zero])?;
    let dm = erased(&both, &key, value.dtype())?;
    let dvalue = looked_up(&both, &key, value.dtype())?;
    Ok(vec![Some(dm.into()), None, Some(dvalue.into())])
}

register_ops!(empty, size, lookup, insert, erase, has_key, stack_keys);

#[cfg(test)]
mod tests;
