//! `docs/ops.md` lists the operations that the engine has.
#![forbid(unsafe_code)]

mod command;

use std::path::Path;

#[test]
fn the_page_of_operations_is_current() {
    let ran = command::run(["ops", "--markdown"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/ops.md");
    let page = std::fs::read_to_string(path).unwrap_or_default();
    let differs = ran.stdout.lines().zip(page.lines()).find(|(now, then)| now != then);
    assert!(
        ran.stdout == page,
        "docs/ops.md is not what the engine has (first difference: {differs:?}); write it again with\n    \
         cargo run --release -- ops --markdown > docs/ops.md"
    );
}
