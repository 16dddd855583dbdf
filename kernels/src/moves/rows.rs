//! Rows picked by number.

use actorflow_core::error::Result;
use actorflow_core::parallel::Parallel;

use super::{Item, Shuffle, outside, par_rows};

/// `out` row `i` is row `picks[i]` of the source; all rows are `row` elements long.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    /// Elements of a row.
    pub row: usize,
    /// A row of the source for each row of the output.
    pub picks: &'a [usize],
}

impl Shuffle for Rows<'_> {
    fn run<E: Item>(&self, sources: &[&[E]], out: &mut [E], par: &dyn Parallel) -> Result<()> {
        let src = *sources.first().ok_or_else(outside)?;
        let row = self.row;
        if row == 0 || self.picks.is_empty() {
            return Ok(());
        }
        let rows = src.len() / row;
        if Some(out.len()) != self.picks.len().checked_mul(row) || self.picks.iter().any(|p| *p >= rows) {
            return Err(outside());
        }
        par_rows(par, out, row, |at, part| {
            let picks = &self.picks[at / row..];
            if row == 1 {
                for (o, p) in part.iter_mut().zip(picks) {
                    o.clone_from(&src[*p]);
                }
            } else {
                for (o, p) in part.chunks_exact_mut(row).zip(picks) {
                    o.clone_from_slice(&src[p * row..][..row]);
                }
            }
        });
        Ok(())
    }
}
