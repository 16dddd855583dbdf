//! Files are read in a process of its own, whose memory is bounded by the system, and which may not take long.
//!
//! The process is this test binary again, with a request in its environment. It says on its standard output what it is
//! about to read, so that the file that ended it can be named.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use actorflow_tests::hostile::guided::Guided;

const REQUEST: &str = "ACTORFLOW_HOSTILE_REQUEST";
/// Address space of the process, in KiB: the program, its threads' stacks and arenas, and what it allocates.
const ADDRESS_SPACE_KIB: u64 = 4 << 20;
/// The process may have resided in so much memory, in KiB: four times the budget that its sessions have.
const RESIDENT_KIB: u64 = 512 << 10;
/// After so long without a word the process hangs. Files take milliseconds; this leaves room for a busy machine.
const SILENCE: Duration = Duration::from_secs(30);

/// Which files of a target are read.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Files {
    /// As they are; all have to be sound if so said.
    Whole { sound: bool },
    /// Each cut off at every byte, or at every n-th; none may pass if so said.
    Cut { every: usize, refused: bool },
    /// Those that follow from these seeds.
    Mutants { from: u64, to: u64 },
}

impl Files {
    fn to_text(self) -> String {
        match self {
            Files::Whole { sound } => format!("whole {} 0", u8::from(sound)),
            Files::Cut { every, refused } => format!("cut {every} {}", u8::from(refused)),
            Files::Mutants { from, to } => format!("mutants {from} {to}"),
        }
    }
}

/// Reads the files of a target in a process of its own; the slowest file and its time in milliseconds.
///
/// # Panics
/// Naming the file, if the process panics, aborts, is silent for too long or takes too much memory.
pub(crate) fn read(target: &str, files: Files) -> String {
    let this = std::env::current_exe().expect("the path of this test");
    let limited = format!("ulimit -v {ADDRESS_SPACE_KIB} 2>/dev/null; exec \"$0\" \"$@\"");
    let mut child = Command::new("sh")
        .args(["-c", &limited])
        .arg(this)
        .args([
            "--exact",
            "the_process_that_reads_files",
            "--ignored",
            "--nocapture",
            "--quiet",
        ])
        .env(REQUEST, format!("{target} {}", files.to_text()))
        .env("RUST_BACKTRACE", "0")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a child process");
    let (stdout, mut stderr) = (child.stdout.take(), child.stderr.take());
    let (say, heard) = mpsc::channel();
    let listener = std::thread::spawn(move || {
        for line in BufReader::new(stdout.expect("piped")).lines().map_while(Result::ok) {
            if say.send(line).is_err() {
                return;
            }
        }
    });
    let complaints = std::thread::spawn(move || {
        let mut text = String::new();
        if let Some(pipe) = &mut stderr {
            let _ = std::io::Read::read_to_string(pipe, &mut text);
        }
        text
    });
    let (mut at, mut summary) = ("its start".to_owned(), None);
    let hangs = loop {
        match heard.recv_timeout(SILENCE) {
            Ok(line) => {
                if let Some(file) = line.strip_prefix("file ") {
                    file.clone_into(&mut at);
                } else if let Some(done) = line.strip_prefix("done ") {
                    summary = Some(done.to_owned());
                }
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => break false,
            Err(mpsc::RecvTimeoutError::Timeout) => break true,
        }
    };
    if hangs {
        let _ = child.kill();
    }
    let status = child.wait().expect("the child process ends");
    listener.join().expect("the listener ends");
    let complaints = complaints.join().expect("the listener ends");
    assert!(
        !hangs && status.success() && summary.is_some(),
        "{target}: {at} {}: {status}\n{complaints}\nIf the file follows from a seed, ACTORFLOW_FUZZ_SEED=seed with \
         ACTORFLOW_FUZZ_ITERATIONS=1 reads it alone, and ACTORFLOW_FUZZ_KEEP=FOLDER keeps it.",
        if hangs { "hangs" } else { "ends the process" },
    );
    summary.unwrap_or_default()
}

/// The most memory that this process has resided in, in KiB, where the system says so.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|kib| kib.trim().trim_end_matches("kB").trim().parse().ok())
        .unwrap_or(0)
}

/// What the child process does.
pub(crate) fn serve() {
    let Ok(request) = std::env::var(REQUEST) else {
        return;
    };
    let words: Vec<&str> = request.split(' ').collect();
    let [name, kind, a, b] = words[..] else {
        panic!("{request}");
    };
    let (a, b): (u64, u64) = (a.parse().expect("a number"), b.parse().expect("a number"));
    let guided = Guided::new(name);
    let target = guided.target();
    let mut slowest = (Duration::ZERO, String::new());
    let mut errors = 0;
    let mut read = |what: String, at: usize, bytes: Vec<u8>| {
        println!("file {what}");
        let began = Instant::now();
        // As a fuzz target reads it.
        let error = guided.read(&guided.input(at, bytes));
        slowest = std::mem::take(&mut slowest).max((began.elapsed(), what));
        errors += u64::from(error.is_some());
        error
    };
    let mut number = 0u64;
    match kind {
        "whole" => {
            for at in 0..target.count() {
                let error = read(format!("{at}"), at, target.whole(at));
                assert!(a == 0 || error.is_none(), "{error:?}");
                number += 1;
            }
        }
        "cut" => {
            for at in 0..target.count() {
                let whole = target.whole(at);
                for n in (0..whole.len()).step_by(a as usize) {
                    let error = read(format!("{at} cut off at {n}"), at, whole[..n].to_vec());
                    assert!(b == 0 || error.is_some(), "a file that is cut off passes");
                    number += 1;
                }
            }
        }
        _ => {
            let keep = std::env::var_os("ACTORFLOW_FUZZ_KEEP");
            for seed in a..b {
                let (at, bytes) = target.mutant(seed);
                if let Some(folder) = &keep {
                    let path = std::path::Path::new(folder).join(format!("{name}-{seed}.pb"));
                    std::fs::write(path, &bytes).expect("the folder of ACTORFLOW_FUZZ_KEEP");
                }
                read(format!("of seed {seed}"), at, bytes);
                number += 1;
            }
        }
    }
    let kib = resident();
    println!(
        "done {number} files, {errors} errors, {kib} KiB at most, slowest {} ms: {}",
        slowest.0.as_millis(),
        slowest.1
    );
    std::io::stdout().flush().expect("a reader");
    assert!(kib <= RESIDENT_KIB, "{kib} KiB of memory, more than {RESIDENT_KIB}");
}
