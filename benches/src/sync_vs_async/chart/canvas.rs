//! Shapes and text as SVG.

use std::fmt::Write;
use std::sync::Arc;

use actorflow::{Error, Result};
use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::{self, fontdb};

const FONTS: [&[u8]; 2] = [
    include_bytes!("../../../assets/report-sans.ttf"),
    include_bytes!("../../../assets/report-sans-bold.ttf"),
];
const FAMILY: &str = "'Report Sans', 'DejaVu Sans', Verdana, Helvetica, Arial, sans-serif";

/// Text and axes.
pub(super) const INK: &str = "#222222";
/// What is less important.
pub(super) const FAINT: &str = "#666666";
/// Lines behind the data.
pub(super) const GRID: &str = "#e3e3e3";

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dash {
    /// Of what was measured.
    Solid,
    /// Of what was simulated.
    Dashed,
    /// Of what is neither, such as a target.
    Dotted,
}

impl Dash {
    fn pattern(self) -> &'static str {
        match self {
            Dash::Solid => "",
            Dash::Dashed => " stroke-dasharray=\"7 4\"",
            Dash::Dotted => " stroke-dasharray=\"1.5 3.5\"",
        }
    }
}

/// Where a text is, seen from its point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

impl Anchor {
    fn name(self) -> &'static str {
        match self {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        }
    }
}

/// How a text looks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Font {
    pub(super) size: f64,
    pub(super) bold: bool,
    pub(super) colour: &'static str,
}

impl Font {
    /// Ordinary text.
    pub(super) const fn new(size: f64) -> Font {
        Font {
            size,
            bold: false,
            colour: INK,
        }
    }

    pub(super) const fn bold(self) -> Font {
        Font { bold: true, ..self }
    }

    pub(super) const fn faint(self) -> Font {
        Font { colour: FAINT, ..self }
    }

    /// About how wide a text is.
    pub(super) fn width(self, text: &str) -> f64 {
        text.chars().count() as f64 * self.size * if self.bold { 0.66 } else { 0.585 }
    }
}

pub(in super::super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c => out.push(c),
        }
    }
    out
}

/// A picture under construction; lengths are pixels, from the upper left corner.
#[derive(Debug)]
pub(super) struct Canvas {
    pub(super) width: f64,
    pub(super) height: f64,
    body: String,
    /// What the names of its parts begin with, unique within a page.
    name: String,
    clips: usize,
}

// Writing to a string does not fail.
macro_rules! put {
    ($to:expr, $($what:tt)*) => { let _ = write!($to, $($what)*); };
}

impl Canvas {
    pub(super) fn new(name: &str, width: f64, height: f64) -> Canvas {
        Canvas {
            width,
            height,
            body: String::new(),
            name: name.to_owned(),
            clips: 0,
        }
    }

    pub(super) fn line(&mut self, from: (f64, f64), to: (f64, f64), colour: &str, width: f64, dash: Dash) {
        put!(
            self.body,
            "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{colour}\" stroke-width=\"{width}\"{}/>",
            from.0,
            from.1,
            to.0,
            to.1,
            dash.pattern()
        );
    }

    pub(super) fn path(&mut self, points: &[(f64, f64)], colour: &str, width: f64, dash: Dash) {
        let mut d = String::new();
        for (i, (x, y)) in points.iter().enumerate() {
            put!(d, "{}{x:.1} {y:.1}", if i == 0 { 'M' } else { 'L' });
        }
        put!(
            self.body,
            "<path d=\"{d}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\" stroke-linejoin=\"round\" \
             stroke-linecap=\"butt\"{}/>",
            dash.pattern()
        );
    }

    /// A rectangle `(x, y, width, height)`.
    pub(super) fn rect(&mut self, (x, y, w, h): (f64, f64, f64, f64), fill: &str, stroke: Option<(&str, Dash)>) {
        let stroke = stroke.map_or(String::new(), |(colour, dash)| {
            format!(" stroke=\"{colour}\" stroke-width=\"1.4\"{}", dash.pattern())
        });
        put!(
            self.body,
            "<rect x=\"{x:.2}\" y=\"{y:.2}\" width=\"{w:.2}\" height=\"{h:.2}\" fill=\"{fill}\"{stroke}/>"
        );
    }

    pub(super) fn shape(&mut self, points: &[(f64, f64)], fill: &str, stroke: &str) {
        let points: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        put!(
            self.body,
            "<polygon points=\"{}\" fill=\"{fill}\" stroke=\"{stroke}\" stroke-width=\"1.2\"/>",
            points.join(" ")
        );
    }

    pub(super) fn circle(&mut self, (x, y): (f64, f64), r: f64, fill: &str, stroke: &str) {
        put!(
            self.body,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{r}\" fill=\"{fill}\" stroke=\"{stroke}\" stroke-width=\"1.2\"/>"
        );
    }

    pub(super) fn text(&mut self, (x, y): (f64, f64), text: &str, font: Font, anchor: Anchor) {
        self.turned((x, y), text, font, anchor, 0.0);
    }

    /// Text turned by so many degrees, clockwise.
    pub(super) fn turned(&mut self, (x, y): (f64, f64), text: &str, font: Font, anchor: Anchor, by: f64) {
        let turn = if by == 0.0 {
            String::new()
        } else {
            format!(" transform=\"rotate({by} {x:.1} {y:.1})\"")
        };
        put!(
            self.body,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"{}\"{} fill=\"{}\" text-anchor=\"{}\"{turn}>{}</text>",
            font.size,
            if font.bold { " font-weight=\"bold\"" } else { "" },
            font.colour,
            anchor.name(),
            escape(text)
        );
    }

    /// What `draw` draws, but nothing outside of the rectangle.
    pub(super) fn within(&mut self, (x, y, w, h): (f64, f64, f64, f64), draw: impl FnOnce(&mut Canvas)) {
        self.clips += 1;
        let id = format!("{}-clip{}", self.name, self.clips);
        put!(
            self.body,
            "<clipPath id=\"{id}\"><rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{w:.1}\" height=\"{h:.1}\"/></clipPath>\
             <g clip-path=\"url(#{id})\">"
        );
        draw(self);
        self.body.push_str("</g>\n");
    }

    /// The whole picture, on white.
    pub(super) fn finish(self) -> String {
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0:.0} {1:.0}\" width=\"{0:.0}\" height=\"{1:.0}\" \
             font-family=\"{FAMILY}\"><rect width=\"{0:.0}\" height=\"{1:.0}\" fill=\"#ffffff\"/>{2}</svg>\n",
            self.width, self.height, self.body
        )
    }
}

/// Draws a picture at twice its size.
///
/// # Errors
/// If the text is no SVG, or there is no memory for the picture.
pub(in super::super) fn png(svg: &str) -> Result<Vec<u8>> {
    const SCALE: f32 = 2.0;
    let mut fonts = fontdb::Database::new();
    for f in FONTS {
        fonts.load_font_data(f.to_vec());
    }
    let options = usvg::Options {
        font_family: "Report Sans".to_owned(),
        fontdb: Arc::new(fonts),
        ..usvg::Options::default()
    };
    let bad = |e: String| Error::internal(format!("a picture cannot be drawn: {e}"));
    let tree = usvg::Tree::from_str(svg, &options).map_err(|e| bad(e.to_string()))?;
    let size = tree.size().to_int_size();
    let side = |n: u32| (n as f32 * SCALE) as u32;
    let mut pixels = Pixmap::new(side(size.width()), side(size.height()))
        .ok_or_else(|| bad(format!("{} × {} pixels", size.width(), size.height())))?;
    resvg::render(&tree, Transform::from_scale(SCALE, SCALE), &mut pixels.as_mut());
    pixels.encode_png().map_err(|e| bad(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_in_a_picture_shows_in_its_png() {
        let dark = |text: &str| {
            let mut c = Canvas::new("t", 120.0, 30.0);
            c.text((5.0, 20.0), text, Font::new(12.0).bold(), Anchor::Start);
            let bytes = png(&c.finish()).unwrap();
            let image = Pixmap::decode_png(&bytes).unwrap();
            assert_eq!((image.width(), image.height()), (240, 60));
            image.pixels().iter().filter(|p| p.red() < 128).count()
        };
        assert_eq!(dark(""), 0);
        assert!(dark("sync & <async>") > 200);
    }

    #[test]
    fn text_cannot_end_its_element() {
        assert_eq!(escape("a<b & \"c\">"), "a&lt;b &amp; &quot;c&quot;&gt;");
    }
}
