//! Renders the test picture of the workflow: `cargo run --release --example render -- assets/mandelbrot.jpg`.
//!
//! A Mandelbrot set, because it has the fine detail and smooth areas that make decoding and scaling real work.

use image::codecs::jpeg::JpegEncoder;
use image::{Rgb, RgbImage};
use std::error::Error;
use std::fs::File;

const WIDTH: u32 = 1920;
const HEIGHT: u32 = 1080;
const ITERATIONS: u32 = 400;
const QUALITY: u8 = 80;

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args_os().nth(1).ok_or("usage: render FILE.jpg")?;
    let picture = RgbImage::from_fn(WIDTH, HEIGHT, |x, y| {
        let scale = 2.6 / f64::from(HEIGHT);
        let re = (f64::from(x) - f64::from(WIDTH) * 0.64) * scale;
        let im = (f64::from(y) - f64::from(HEIGHT) * 0.5) * scale;
        escape(re, im).map_or(Rgb([8, 8, 16]), colour)
    });
    picture.write_with_encoder(JpegEncoder::new_with_quality(File::create(path)?, QUALITY))?;
    Ok(())
}

/// After how many iterations, with a fraction for smooth colours, a point leaves the set's circle; `None` inside the set.
fn escape(re: f64, im: f64) -> Option<f64> {
    let (mut x, mut y) = (0.0, 0.0);
    for iteration in 0..ITERATIONS {
        let (xx, yy) = (x * x, y * y);
        if xx + yy > 256.0 {
            return Some(f64::from(iteration) + 1.0 - (0.5_f64 * f64::ln(xx + yy)).log2());
        }
        (x, y) = (xx - yy + re, 2.0 * x * y + im);
    }
    None
}

fn colour(escape: f64) -> Rgb<u8> {
    #[allow(clippy::cast_possible_truncation, reason = "a sine scaled to 0..=255 fits")]
    let channel = |phase: f64| {
        let level = 127.5 + 127.5 * (escape.sqrt() * 1.3 + phase).sin();
        level.round() as u8
    };
    Rgb([channel(3.6), channel(4.4), channel(5.2)])
}
