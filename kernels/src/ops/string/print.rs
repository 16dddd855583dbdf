//! `Assert`, `Print`, `PrintV2`, `StringFormat`: tensors as messages.

use std::io::Write;
use std::sync::atomic::{AtomicI64, Ordering};

use actorflow_core::error::{Error, Result};
use actorflow_core::files::FilePolicy;
use actorflow_core::kernel::{KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{Attrs, Tensor, register_ops};
use bytes::Bytes;

use super::summary::{nested, summarized};
use crate::{files, shapes};

fn assert_op() -> OpDef {
    OpDef::new("Assert", Category::ControlFlow)
        .doc("Fails the step with the data in its message if the condition is false.")
        .input("condition: bool")
        .input("data: T")
        .attr("T: list(type) >= 1")
        .attr("summarize: int = 3")
        .stateful()
        .shape(|cx| {
            cx.input(0).with_rank(0)?;
            shapes::none(cx)
        })
        .not_differentiable()
        .cpu(|init| {
            let limit = init.attrs.int("summarize")?;
            Ok(Box::new(move |cx: &mut OpContext<'_>| {
                if cx.scalar::<bool>(0)? {
                    return Ok(());
                }
                let parts = (1..cx.num_inputs()).map(|i| Ok(format!("[{}]", summarized(cx.input(i)?, limit))));
                let parts = parts.collect::<Result<Vec<_>>>()?;
                Err(Error::invalid(format!("assertion failed: {}", parts.join(" "))))
            }))
        })
}

/// Writes to the process's standard error; that nobody reads it is no error of the step.
fn to_stderr(text: &[u8]) {
    let _ = std::io::stderr().lock().write_all(text);
}

fn print() -> OpDef {
    OpDef::new("Print", Category::Io)
        .doc("The same tensor; writes a message and other tensors to standard error, the first `first_n` times.")
        .input("input: T")
        .input("data: U")
        .output("output: T")
        .attr("T: type")
        .attr("U: list(type) >= 0")
        .attr("message: string = ''")
        .attr("first_n: int = -1")
        .attr("summarize: int = 3")
        .stateful()
        .shape(shapes::like_first)
        .gradient(|cx, dys| {
            let mut all = vec![None; cx.num_inputs()];
            all[0] = dys[0].clone();
            Ok(all)
        })
        .cpu(|init| {
            let message = init.attrs.byte_string("message")?.clone();
            let (first, limit) = (init.attrs.int("first_n")?, init.attrs.int("summarize")?);
            let printed = AtomicI64::new(0);
            Ok(Box::new(move |cx: &mut OpContext<'_>| {
                if first < 0 || printed.fetch_add(1, Ordering::Relaxed) < first {
                    let mut text = message.to_vec();
                    for i in 1..cx.num_inputs() {
                        text.extend_from_slice(format!("[{}]", summarized(cx.input(i)?, limit)).as_bytes());
                    }
                    text.push(b'\n');
                    to_stderr(&text);
                }
                cx.forward(0, 0)
            }))
        })
        .sample(|s| {
            let x = s.normal([2])?;
            s.op("Print").input(&x).input_list(&[]).attr("first_n", 0i64).finish()
        })
}

/// Where `PrintV2` writes.
enum Stream {
    Out,
    Err,
    /// A log line of that severity.
    Log(&'static str),
    File(String),
}

impl Stream {
    fn of(attrs: &Attrs) -> Result<Stream> {
        Ok(match attrs.str("output_stream")? {
            "stdout" => Stream::Out,
            "stderr" => Stream::Err,
            "log(info)" => Stream::Log("INFO"),
            "log(warning)" => Stream::Log("WARNING"),
            "log(error)" => Stream::Log("ERROR"),
            other => match other.strip_prefix("file://") {
                Some(path) => Stream::File(path.to_owned()),
                None => {
                    return Err(Error::invalid(format!(
                        "unknown output stream {other:?}; it is stdout, stderr, log(info), log(warning), log(error) or \
                         file://PATH"
                    )));
                }
            },
        })
    }

    fn write(&self, text: &[u8], policy: &FilePolicy) -> Result<()> {
        match self {
            Stream::Out => {
                let mut out = std::io::stdout().lock();
                let _ = out.write_all(text).and_then(|()| out.flush());
            }
            Stream::Err => to_stderr(text),
            Stream::Log(severity) => to_stderr(&[severity.as_bytes(), b": ", text].concat()),
            Stream::File(path) => files::append(policy, path)?
                .write_all(text)
                .map_err(|e| Error::from(e).context(path))?,
        }
        Ok(())
    }
}

fn print_v2() -> OpDef {
    OpDef::new("PrintV2", Category::Io)
        .doc("Writes a string to a stream.")
        .input("input: string")
        .attr("output_stream: string = 'stderr'")
        .attr("end: string = '\n'")
        .stateful()
        .shape(|cx| {
            cx.input(0).with_rank(0)?;
            shapes::none(cx)
        })
        .not_differentiable()
        .cpu(|init: &KernelInit<'_>| {
            let stream = Stream::of(init.attrs)?;
            let end = init.attrs.byte_string("end")?.clone();
            Ok(Box::new(move |cx: &mut OpContext<'_>| {
                match cx.input(0)?.as_strings()? {
                    [s] => stream.write(&[&s[..], &end[..]].concat(), cx.files()),
                    many => Err(Error::invalid(format!(
                        "the input must be a scalar, it has {} elements",
                        many.len()
                    ))),
                }
            }))
        })
}

/// The parts of the template between the placeholders, of which there must be `n`.
fn parts(attrs: &Attrs, n: usize) -> Result<Vec<Bytes>> {
    let (template, mark) = (attrs.byte_string("template")?, attrs.byte_string("placeholder")?);
    let mut out = Vec::new();
    let mut start = 0;
    let mut i = 0;
    while !mark.is_empty() && i + mark.len() <= template.len() {
        if template[i..].starts_with(mark) {
            out.push(template.slice(start..i));
            i += mark.len();
            start = i;
        } else {
            i += 1;
        }
    }
    out.push(template.slice(start..));
    if out.len() != n + 1 {
        return Err(Error::invalid(format!(
            "num placeholders in template and num inputs must match: {} vs. {n}",
            out.len() - 1
        )));
    }
    Ok(out)
}

fn string_format() -> OpDef {
    OpDef::new("StringFormat", Category::String)
        .doc("A template in which each placeholder is replaced by a tensor as text.")
        .input("inputs: T")
        .output("output: string")
        .attr("T: list(type) >= 0")
        .attr("template: string = '%s'")
        .attr("placeholder: string = '%s'")
        .attr("summarize: int = 3")
        .shape(|cx| {
            parts(cx.attrs(), cx.num_inputs())?;
            shapes::scalar(cx)
        })
        .not_differentiable()
        .cpu(|init| {
            let parts = parts(init.attrs, init.input_types.len())?;
            let edge = init.attrs.int("summarize")?;
            Ok(Box::new(move |cx: &mut OpContext<'_>| {
                let mut text = parts[0].to_vec();
                for (i, p) in parts[1..].iter().enumerate() {
                    text.extend_from_slice(nested(cx.input(i)?, edge).as_bytes());
                    text.extend_from_slice(p);
                }
                cx.set_output(0, Tensor::string(text));
                Ok(())
            }))
        })
}

register_ops!(assert_op, print, print_v2, string_format);

#[cfg(test)]
mod tests {
    use crate::testing::{Interpreter, eval};
    use actorflow_core::{Code, Graph, Tensor};

    #[test]
    fn a_failed_assertion_shows_its_data() {
        let g = Graph::new();
        let (no, x) = (g.constant(false).unwrap(), g.constant([1i32, 2, 3, 4]).unwrap());
        let text = g.constant("x must be small").unwrap();
        let op = g.op("Assert").input(&no).input_list(&[text, x]).finish().unwrap();
        let e = Interpreter::default().run(&[], &[op], &[]).unwrap_err();
        assert_eq!(e.code(), Code::InvalidArgument);
        assert_eq!(e.message(), "assertion failed: [x must be small] [1 2 3...]");
    }

    #[test]
    fn a_template_takes_one_tensor_a_placeholder() {
        let g = Graph::new();
        let (x, y) = (g.constant([1.5f32, 2.0]).unwrap(), g.constant("s").unwrap());
        let format = |t: &str| {
            let b = g.op("StringFormat").input_list(&[x.clone(), y.clone()]);
            b.attr("template", t).attr("placeholder", "{}").output()
        };
        assert_eq!(
            eval(&format("x = {}, y = {}!").unwrap()),
            Tensor::from("x = [1.5 2], y = \"s\"!")
        );
        assert!(format("{}").unwrap_err().message().contains("1 vs. 2"));
    }
}
