//! PNG from a chart's SVG, with the bundled font: the same picture on every machine.
use std::sync::Arc;

use resvg::{tiny_skia, usvg};

/// Pixels for each unit of the drawing: sharp on screens of high density and in print.
pub(super) const PIXELS_PER_UNIT: f32 = 2.0;

const FONT: &[u8] = include_bytes!("../../../assets/fonts/LiberationSans-Regular.ttf");

pub(super) fn options() -> usvg::Options<'static> {
    let mut fonts = usvg::fontdb::Database::new();
    fonts.load_font_data(FONT.to_vec());
    fonts.set_sans_serif_family("Liberation Sans");
    usvg::Options { font_family: "Liberation Sans".to_owned(), fontdb: Arc::new(fonts), ..usvg::Options::default() }
}

/// Returns the PNG file of an SVG document, or why there is none.
pub(super) fn render(svg: &str) -> Result<Vec<u8>, String> {
    let tree = usvg::Tree::from_str(svg, &options()).map_err(|error| error.to_string())?;
    let size = tree.size().to_int_size().scale_by(PIXELS_PER_UNIT).ok_or("the drawing has no size")?;
    let mut pixels =
        tiny_skia::Pixmap::new(size.width(), size.height()).ok_or("the drawing is too large for a picture")?;
    let scale = tiny_skia::Transform::from_scale(PIXELS_PER_UNIT, PIXELS_PER_UNIT);
    resvg::render(&tree, scale, &mut pixels.as_mut());
    pixels.encode_png().map_err(|error| error.to_string())
}
