//! QR codes, as documents that a page can show.

use qrcodegen::{QrCode, QrCodeEcc};

use crate::kernel::error::{Error, Reason};

/// The quiet zone around a code, in modules (ISO/IEC 18004, section 5.3.8).
const QUIET: i32 = 4;
/// Pixels of the PNG for each module.
const PIXELS: i32 = 6;

/// A QR code with its quiet zone.
pub struct Picture {
    code: QrCode,
    /// Modules of a side, with the quiet zone.
    side: i32,
}

impl Picture {
    /// Of a text.
    pub fn of(text: &str) -> Result<Self, Error> {
        let code = QrCode::encode_text(text, QrCodeEcc::Medium)
            .map_err(|error| Error::internal("a text is too long for a QR code", error))?;
        let side = code.size() + 2 * QUIET;
        Ok(Self { code, side })
    }

    /// Whether a module is dark. Those outside of the code are light.
    fn is_dark(&self, x: i32, y: i32) -> bool {
        self.code.get_module(x - QUIET, y - QUIET)
    }

    /// As an SVG document that scales to any size.
    pub fn svg(&self) -> String {
        let side = self.side;
        let dark = (0..side).flat_map(|y| (0..side).map(move |x| (x, y))).filter(|(x, y)| self.is_dark(*x, *y));
        let path: String = dark.map(|(x, y)| format!("M{x} {y}h1v1h-1z")).collect();
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {side} {side}\" shape-rendering=\"crispEdges\">\
             <path fill=\"#fff\" d=\"M0 0h{side}v{side}H0z\"/><path d=\"{path}\"/></svg>"
        )
    }

    /// As a PNG image, black on white, one bit a pixel.
    pub fn png(&self) -> Result<Vec<u8>, Error> {
        let pixels = self.side * PIXELS;
        let mut data = Vec::new();
        for y in 0..pixels {
            for byte in 0..(pixels + 7) / 8 {
                let light = |bit: &i32| !self.is_dark((byte * 8 + bit) / PIXELS, y / PIXELS);
                data.push((0..8).filter(light).fold(0, |bits, bit| bits | (0x80_u8 >> bit)));
            }
        }
        let pixels = u32::try_from(pixels).map_err(|_| Error::new(Reason::Internal, "a QR code without size"))?;
        let mut image = Vec::new();
        let mut encoder = png::Encoder::new(&mut image, pixels, pixels);
        encoder.set_color(png::ColorType::Grayscale);
        encoder.set_depth(png::BitDepth::One);
        let failed = |error| Error::internal("a PNG can't be written", error);
        let mut writer = encoder.write_header().map_err(failed)?;
        writer.write_image_data(&data).map_err(failed)?;
        writer.finish().map_err(failed)?;
        Ok(image)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_pictures_show_the_modules_of_the_code() {
        let picture = Picture::of("otpauth://totp/Rialto:ann?secret=GEZDGNBVGY3TQOJQ&issuer=Rialto").unwrap();
        let svg = picture.svg();
        let image = picture.png().unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(image)).read_info().unwrap();
        let mut data = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut data).unwrap();
        assert_eq!(info.width, u32::try_from(picture.side * PIXELS).unwrap());
        let mut dark = 0;
        for y in 0..picture.side {
            for x in 0..picture.side {
                let expected = picture.is_dark(x, y);
                dark += usize::from(expected);
                assert_eq!(svg.contains(&format!("M{x} {y}h1v1h-1z")), expected, "{x} {y}");
                let (column, row) = (x * PIXELS + PIXELS / 2, usize::try_from(y * PIXELS + PIXELS / 2).unwrap());
                let byte = data[row * info.line_size + usize::try_from(column / 8).unwrap()];
                assert_eq!(byte & (0x80 >> (column % 8)) == 0, expected, "{x} {y}");
                let in_quiet_zone = [x, y].iter().any(|at| *at < QUIET || *at >= picture.side - QUIET);
                assert!(!(in_quiet_zone && expected), "{x} {y}");
            }
        }
        assert!(dark > 100);
    }
}
