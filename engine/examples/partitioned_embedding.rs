//! A table that is too large for one server, in parts: planned first, trained then.
//!
//! `cargo run --release -p actorflow --example partitioned_embedding -- --rows 1000000000 --ps 8 --dry-run`
//!
//! `--dry-run` builds the graph of the training, with each part of the table and its optimizer slot on its parameter
//! server, and prints how many bytes every server needs. Nothing of the table is allocated for that. Without it the table is
//! trained, with servers that are devices of this process: each item (a row of 20 numbers) learns to which of ten groups it
//! belongs, from items that come as often as words of a language do. Only the rows of a batch are read, sent and changed.
//!
//! `--rows N` (1,000,000), `--ps N` (4), `--part-bytes N`: the most bytes of a part; without it there is a part for each
//! server. `--steps N` (600).

use actorflow::nn::sparse_softmax_cross_entropy;
use actorflow::placement::{PsStrategy, parameter_devices};
use actorflow::train::init::{RandomUniform, VarianceScaling};
use actorflow::train::optimizer::Adagrad;
use actorflow::train::partitioned::{AxisSize, FixedSize, PartitionedVariable};
use actorflow::{
    DType, Error, Graph, GraphVariables, Operation, Optimizer, Output, Result, Session, SessionOptions, Tensor,
};

const WIDTH: usize = 20;
const GROUPS: usize = 10;
const BATCH: usize = 1024;

struct Options {
    rows: usize,
    ps: usize,
    part_bytes: Option<usize>,
    steps: usize,
    dry_run: bool,
}

impl Options {
    fn read() -> Result<Options> {
        let mut o = Options {
            rows: 1_000_000,
            ps: 4,
            part_bytes: None,
            steps: 600,
            dry_run: false,
        };
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            let mut number = || -> Result<usize> {
                let text = args.next().unwrap_or_default();
                match text.parse() {
                    Ok(n) if n > 0 => Ok(n),
                    _ => Err(Error::invalid(format!("{arg} needs a positive number, not {text:?}"))),
                }
            };
            match arg.as_str() {
                "--rows" => o.rows = number()?,
                "--ps" => o.ps = number()?,
                "--part-bytes" => o.part_bytes = Some(number()?),
                "--steps" => o.steps = number()?,
                "--dry-run" => o.dry_run = true,
                _ => {
                    let known = "--rows N, --ps N, --part-bytes N, --steps N and --dry-run";
                    return Err(Error::invalid(format!("there is no argument {arg:?}, only {known}")));
                }
            }
        }
        Ok(o)
    }
}

struct Model {
    table: PartitionedVariable,
    ids: Output,
    groups: Output,
    loss: Output,
    train: Operation,
}

/// The graph; servers and worker are what the devices are called.
fn model(g: &Graph, options: &Options, servers: &[String], worker: &str) -> Result<Model> {
    g.set_seed(1);
    // Each part goes to the server that has the fewest bytes so far.
    let spread = PsStrategy::GreedyLoadBalancing;
    let _devices = g.device_function(parameter_devices(servers, worker, spread)?);
    let builder = PartitionedVariable::builder(g, "table", [options.rows, WIDTH]);
    let builder = match options.part_bytes {
        None => builder.partitioner(FixedSize {
            parts: options.ps,
            axis: 0,
        }),
        Some(max_bytes) => builder.partitioner(AxisSize {
            max_bytes,
            axis: 0,
            max_parts: None,
        }),
    };
    let table = builder.build(RandomUniform {
        min: -0.05,
        max: 0.05,
        seed: None,
    })?;
    let ids = g.placeholder("ids", DType::I64, [BATCH])?;
    let groups = g.placeholder("groups", DType::I32, [BATCH])?;
    let weights = g.get_variable("weights", [WIDTH, GROUPS], VarianceScaling::glorot_uniform(Some(2)))?;
    let logits = table.embedding_lookup(&ids, None)?.matmul(&weights)?;
    let loss = sparse_softmax_cross_entropy(&logits, &groups)?.mean(&[], false)?;
    let train = Optimizer::from(Adagrad::new(0.3)).minimize(&loss)?;
    Ok(Model {
        table,
        ids,
        groups,
        loss,
        train,
    })
}

/// The bytes of this process that are in memory, where the system says so.
fn resident() -> Option<usize> {
    let pages = std::fs::read_to_string("/proc/self/statm").ok()?;
    pages.split(' ').nth(1)?.parse::<usize>().ok().map(|n| n * 4096)
}

fn plan(options: &Options) -> Result<()> {
    let before = resident();
    let servers: Vec<String> = (0..options.ps).map(|i| format!("/job:ps/task:{i}")).collect();
    let g = Graph::new();
    let model = model(&g, options, &servers, "/job:worker/task:0")?;
    let (mut whole, mut bytes) = (0, vec![0; options.ps]);
    for (part, v) in model.table.parts().iter().zip(model.table.variables()) {
        let device = v.handle().op().node().device().to_owned();
        let n = part.bytes(DType::F32)?;
        println!(
            "{}: rows {} to {}, {n} bytes, on {device}",
            v.name(),
            part.start[0],
            part.start[0] + part.length[0] - 1
        );
        whole += n;
    }
    // All variables that there are: the parts, their slots, and the small ones.
    for v in g.variables()? {
        let n = v.shape().to_shape().map_or(0, |s| s.iter().product::<usize>()) * v.dtype().size();
        let device = v.handle().op().node().device().to_owned();
        if let Some(i) = servers.iter().position(|s| *s == device) {
            bytes[i] += n;
        }
    }
    println!(
        "a table of {} rows of {WIDTH} float32 takes {whole} bytes, in {} parts",
        options.rows,
        model.table.parts().len()
    );
    for (server, n) in servers.iter().zip(&bytes) {
        println!("{server}: {n} bytes, slots of the optimizer and other variables included");
    }
    println!("all servers: {} bytes", bytes.iter().sum::<usize>());
    if let (Some(before), Some(after)) = (before, resident()) {
        println!(
            "planning it took {} KiB of this process's memory",
            after.saturating_sub(before) >> 10
        );
    }
    Ok(())
}

/// Item and group of each example of a batch. Items have ranks as words do: the n-th most frequent comes 1/n as often as
/// the first.
fn batch(step: usize, rows: usize) -> [Tensor; 2] {
    let (mut ids, mut groups) = (Vec::new(), Vec::new());
    let mut x = (step as u64).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for _ in 0..BATCH {
        // xorshift (Marsaglia 2003).
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        let u = (x >> 11) as f64 / (1u64 << 53) as f64;
        let rank = ((rows as f64).powf(u) as usize).min(rows) - 1;
        // Neighbouring ranks are spread over the whole table.
        let id = ((rank as u128 * 0x9e37_79b9_7f4a_7c15) % rows as u128) as usize;
        ids.push(id as i64);
        groups.push(((id / 7 + id % 7) % GROUPS) as i32);
    }
    [Tensor::vector(&ids), Tensor::vector(&groups)]
}

fn train(options: &Options) -> Result<()> {
    let servers: Vec<String> = (0..options.ps).map(|i| format!("/cpu:{i}")).collect();
    let g = Graph::new();
    let model = model(&g, options, &servers, &format!("/cpu:{}", options.ps))?;
    let session = Session::with_options(
        &g,
        SessionOptions {
            devices: options.ps + 1,
            ..SessionOptions::default()
        },
    )?;
    session.execute(&[&g.global_variables_initializer()?])?;
    let step = session.callable(&[&model.ids, &model.groups], &[&model.loss], &[&model.train])?;
    let (mut first, mut last) = (None, 0.0);
    let tenth = options.steps.div_ceil(10);
    let mut sum = 0.0;
    for i in 0..options.steps {
        sum += step.call(&batch(i, options.rows))?[0].to_scalar::<f32>()?;
        if (i + 1) % tenth == 0 {
            last = sum / tenth as f32;
            first.get_or_insert(last);
            sum = 0.0;
            println!("step {}: loss {last:.4}", i + 1);
        }
    }
    println!(
        "{} steps of {BATCH} rows out of {} in {} parts: loss {:.4} to {last:.4}",
        options.steps,
        options.rows,
        model.table.parts().len(),
        first.unwrap_or(last)
    );
    match first {
        Some(first) if last < first => Ok(()),
        _ => Err(Error::internal("the loss has not fallen")),
    }
}

fn main() -> Result<()> {
    let options = Options::read()?;
    match options.dry_run {
        true => plan(&options),
        false => train(&options),
    }
}
