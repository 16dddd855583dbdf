//! Changes of a file that follow from a seed.

use actorflow::graphdef::proto::{self, AttrValue, GraphDef, NodeDef, attr_value::Value};
use prost::Message;

use super::dice::Dice;

/// Cuts, flips, repeats, removes or overwrites some of the bytes.
pub fn bytes(whole: &mut Vec<u8>, dice: &mut Dice) {
    for _ in 0..=dice.below(3) {
        if whole.is_empty() {
            return;
        }
        let at = dice.below(whole.len());
        let end = at + dice.below((whole.len() - at).min(64)) + 1;
        match dice.below(8) {
            0 => whole.truncate(at),
            1 | 2 => whole[at] ^= 1 << dice.below(8),
            3 => whole[at] = dice.draw() as u8,
            4 => {
                let again = whole[at..end].to_vec();
                let to = dice.below(whole.len());
                whole.splice(to..to, again);
            }
            5 => drop(whole.drain(at..end)),
            // A length or a number as large as a varint can be.
            6 => drop(whole.splice(at..=at, [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f])),
            _ => drop(whole.splice(at..=at, (dice.odd() as u32).to_le_bytes())),
        }
    }
}

/// Changes what a graph says: edges, operations, attributes, shapes, constants, functions.
pub fn graph(whole: &[u8], ops: &[&str], dice: &mut Dice) -> Option<Vec<u8>> {
    let mut def = GraphDef::decode(whole).ok()?;
    for _ in 0..=dice.below(3) {
        let functions = def.library.as_mut().map_or(&mut [][..], |l| &mut l.function[..]);
        let within = dice.below(functions.len() + 1);
        let names: Vec<String> = functions
            .iter()
            .filter_map(|f| Some(f.signature.as_ref()?.name.clone()))
            .collect();
        let nodes = match functions.get_mut(within) {
            Some(function) => &mut function.node_def,
            None => &mut def.node,
        };
        one(nodes, &names, ops, dice);
    }
    Some(def.encode_to_vec())
}

fn one(nodes: &mut Vec<NodeDef>, functions: &[String], ops: &[&str], dice: &mut Dice) {
    if nodes.is_empty() {
        return;
    }
    let from = nodes[dice.below(nodes.len())].name.clone();
    let at = dice.below(nodes.len());
    let node = &mut nodes[at];
    match dice.below(9) {
        // Edges from anywhere, which make cycles.
        0 | 1 => {
            let input = match dice.below(5) {
                0 => format!("^{from}"),
                1 => format!("{from}:{}", dice.odd()),
                _ => from,
            };
            let k = dice.below(node.input.len() + 1);
            match node.input.get_mut(k) {
                Some(old) => *old = input,
                None => node.input.push(input),
            }
        }
        2 => {
            let k = dice.below(node.input.len());
            if k < node.input.len() {
                node.input.remove(k);
            }
        }
        3 => node.op = (*dice.pick(ops).unwrap_or(&"NoOp")).to_owned(),
        4 => {
            let again = NodeDef {
                name: format!("{}_{}", node.name, dice.below(100)),
                ..node.clone()
            };
            nodes.push(again);
        }
        5 => {
            let k = dice.below(node.attr.len());
            if let Some(name) = node.attr.keys().nth(k).cloned() {
                node.attr.remove(&name);
            }
        }
        _ => {
            let k = dice.below(node.attr.len());
            if let Some(attr) = node.attr.values_mut().nth(k) {
                attribute(attr, functions, dice);
            }
        }
    }
}

fn attribute(attr: &mut AttrValue, functions: &[String], dice: &mut Dice) {
    match &mut attr.value {
        Some(Value::I(i)) => *i = dice.odd(),
        Some(Value::F(f)) => *f = [f32::NAN, f32::INFINITY, -1.0, 0.0, 1e-40][dice.below(5)],
        Some(Value::B(b)) => *b = !*b,
        Some(Value::S(s)) => *s = [&b""[..], b"SAME", b"NCHW", b"\xff\0", b"while_context"][dice.below(5)].into(),
        Some(Value::Type(t)) => *t = dice.below(30) as i32,
        Some(Value::Shape(s)) => shape(s, dice),
        Some(Value::Tensor(t)) => tensor(t, dice),
        Some(Value::Func(f)) => {
            if let Some(name) = dice.pick(functions) {
                f.name.clone_from(name);
            }
        }
        Some(Value::List(list)) => match dice.below(4) {
            0 => list.i.iter_mut().for_each(|i| *i = dice.odd()),
            1 => list.i.push(dice.odd()),
            2 => list.shape.iter_mut().for_each(|s| shape(s, dice)),
            _ => list.r#type.push(dice.below(30) as i32),
        },
        Some(Value::Placeholder(_)) | None => attr.value = Some(Value::I(dice.odd())),
    }
}

fn shape(shape: &mut proto::TensorShapeProto, dice: &mut Dice) {
    match dice.below(4) {
        0 => shape.unknown_rank = !shape.unknown_rank,
        1 => drop(shape.dim.pop()),
        n => {
            let k = dice.below(shape.dim.len() + n % 2);
            let size = dice.odd();
            match shape.dim.get_mut(k) {
                Some(dim) => dim.size = size,
                None => shape.dim.push(proto::tensor_shape_proto::Dim {
                    size,
                    ..Default::default()
                }),
            }
        }
    }
}

/// Changes the shape of a constant, or its numbers, which say how large other tensors are to be.
fn tensor(tensor: &mut proto::TensorProto, dice: &mut Dice) {
    match dice.below(4) {
        0 => shape(tensor.tensor_shape.get_or_insert_default(), dice),
        1 => tensor.dtype = dice.below(30) as i32,
        _ => {
            let odd = dice.odd();
            tensor.int_val.iter_mut().for_each(|v| *v = odd as i32);
            tensor.int64_val.iter_mut().for_each(|v| *v = odd);
            let mut content = tensor.tensor_content.to_vec();
            let at = dice.below(content.len());
            for (to, byte) in content.iter_mut().skip(at / 4 * 4).zip(odd.to_le_bytes()) {
                *to = byte;
            }
            tensor.tensor_content = content.into();
        }
    }
}
