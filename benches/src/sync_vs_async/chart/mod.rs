//! Pictures: SVG for pages and PNG for everything else.
//!
//! - [`canvas`]: shapes and text as SVG, and how it becomes PNG
//! - [`style`]: colours and marks of strategies, the same in every picture; numbers as text
//! - [`panel`]: axes with lines; [`figure`]: panels with a title and a legend
//! - [`pictures`], [`bars`], [`workers`]: what is drawn of the results

mod bars;
mod canvas;
mod figure;
mod panel;
mod pictures;
mod style;
mod workers;

pub(super) use canvas::{escape, png};
pub(super) use pictures::{Picture, all};
pub(super) use style::{Styles, percent, short, time};
