//! The files of Swagger UI that the API page needs.

use std::fs;
use std::io::{Cursor, Read};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use zip::{CompressionMethod, ZipArchive};

/// Writes them as gzip. A zip file holds the same compressed bytes between other headers, so nothing is compressed anew.
pub fn unpack(out: &Path) -> Result<()> {
    let mut archive = ZipArchive::new(Cursor::new(utoipa_swagger_ui_vendored::SWAGGER_UI_VENDORED))?;
    for name in ["swagger-ui.css", "swagger-ui-bundle.js"] {
        let suffix = format!("/dist/{name}");
        let index = archive.file_names_raw().position(|path| path.ends_with(suffix.as_bytes()));
        let index = index.with_context(|| format!("{name} is missing"))?;
        let mut file = archive.by_index_raw(index)?;
        ensure!(file.compression() == CompressionMethod::DEFLATE, "{name} is not deflated");
        // RFC 1952, section 2.3: deflate, no name, no time, an unknown system.
        let mut gzip = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
        file.read_to_end(&mut gzip)?;
        gzip.extend(file.crc32().to_le_bytes());
        gzip.extend(u32::try_from(file.size())?.to_le_bytes());
        fs::write(out.join(format!("{name}.gz")), gzip)?;
    }
    Ok(())
}
