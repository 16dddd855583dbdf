//! `DecodeJSONExample`: `tf.train.Example`s from the JSON form of protocol buffers.
#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::OpContext;
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{Tensor, register_ops};
use bytes::Bytes;
use serde_json::{Map, Value};

use crate::moves;
use crate::ops::string::base64::decoded;
use crate::protobuf::Message;
use crate::shapes;

type Object = Map<String, Value>;

/// A member of an object by its name in JSON or in the definition of the message.
fn member<'a>(of: &'a Object, json: &str, original: &str) -> Option<&'a Value> {
    of.get(json).or_else(|| of.get(original)).filter(|v| !v.is_null())
}

fn object<'a>(v: &'a Value, what: &str) -> std::result::Result<&'a Object, String> {
    v.as_object().ok_or_else(|| format!("{what} must be an object"))
}

fn float(v: &Value) -> Option<f32> {
    match v {
        Value::Number(n) => n.as_f64().map(|x| x as f32),
        Value::String(s) => match s.as_str() {
            "NaN" => Some(f32::NAN),
            "Infinity" => Some(f32::INFINITY),
            "-Infinity" => Some(f32::NEG_INFINITY),
            s => s.parse().ok(),
        },
        _ => None,
    }
}

fn int(v: &Value) -> Option<i64> {
    match v {
        Value::Number(n) => n.as_i64(),
        Value::String(s) => s.parse().ok(),
        _ => None,
    }
}

/// Bytes in base64, of the common alphabet or of the web's.
fn bytes(text: &str) -> Option<Vec<u8>> {
    decoded(text.replace('+', "-").replace('/', "_").as_bytes()).ok()
}

/// A `Feature`, serialized.
fn feature(v: &Value) -> std::result::Result<Vec<u8>, String> {
    let f = object(v, "a feature")?;
    let kinds = [
        (1, "bytesList", "bytes_list"),
        (2, "floatList", "float_list"),
        (3, "int64List", "int64_list"),
    ];
    if let Some(name) = f.keys().find(|k| !kinds.iter().any(|(_, a, b)| k == a || k == b)) {
        return Err(format!("a feature has no member {name:?}"));
    }
    let mut message = Message::default();
    for (number, json, original) in kinds {
        let Some(list) = member(f, json, original) else {
            continue;
        };
        let values = match object(list, json)?.get("value") {
            None | Some(Value::Null) => &[][..],
            Some(Value::Array(a)) => a,
            Some(_) => return Err(format!("the value of {json} must be a list")),
        };
        let wrong = |v: &Value| format!("{v} is no element of {json}");
        // Numbers one by one, not packed, as TensorFlow's converter writes them.
        let mut part = Message::default();
        for v in values {
            match number {
                1 => {
                    let text = v.as_str().ok_or_else(|| wrong(v))?;
                    part = part.part(1, &bytes(text).ok_or_else(|| wrong(v))?);
                }
                2 => part = part.chosen_float(1, float(v).ok_or_else(|| wrong(v))?),
                _ => part = part.chosen_int(1, int(v).ok_or_else(|| wrong(v))? as u64),
            }
        }
        message = message.part(number, &part.done());
    }
    Ok(message.done())
}

fn example(text: &[u8]) -> std::result::Result<Vec<u8>, String> {
    let v: Value = serde_json::from_slice(text).map_err(|e| e.to_string())?;
    let mut features = Message::default();
    if let Some(f) = member(object(&v, "an example")?, "features", "features")
        && let Some(map) = member(object(f, "features")?, "feature", "feature")
    {
        for (name, f) in object(map, "feature")? {
            let entry = Message::default().part(1, name.as_bytes()).part(2, &feature(f)?);
            features = features.part(1, &entry.done());
        }
    }
    Ok(Message::default().part(1, &features.done()).done())
}

fn run(cx: &mut OpContext<'_>) -> Result<()> {
    let input = cx.input(0)?;
    let mut out = moves::list::<Bytes>(cx, input.len())?;
    for (i, s) in input.as_strings()?.iter().enumerate() {
        let bytes =
            example(s).map_err(|e| Error::invalid(format!("error while parsing the JSON of example {i}: {e}")))?;
        out.push(bytes.into());
    }
    let t = Tensor::strings(input.shape().clone(), out)?;
    cx.set_output(0, t);
    Ok(())
}

fn decode_json_example() -> OpDef {
    OpDef::new("DecodeJSONExample", Category::Io)
        .doc("`tf.train.Example`s in their JSON form as serialized messages.")
        .input("json_examples: string")
        .output("binary_examples: string")
        .shape(shapes::unchanged)
        .not_differentiable()
        .cpu(|_| Ok(Box::new(run)))
}

register_ops!(decode_json_example);
