//! Writing an archive: a zip file whose bytes go to Postgres as they come, so that memory is bounded whatever its size, and no
//! disk has a copy of somebody's data.

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use diesel::sql_types::{Text, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;
use zip::ZipWriter;
use zip::result::ZipError;
use zip::write::{SimpleFileOptions, StreamWriter};

use super::model::Export;
use crate::kernel::app::App;
use crate::kernel::db::Conn;
use crate::kernel::error::{Error, Reason};
use crate::kernel::personal_data::File;

/// Bytes of a row of the archive.
const CHUNK: usize = 256 << 10;
/// Rows of a table that are in memory at the same time.
const PAGE: usize = 200;

/// An archive that is being written.
pub struct Archive<'a> {
    app: &'a App,
    export: &'a Export,
    zip: ZipWriter<StreamWriter<Buffer>>,
    buffer: Buffer,
    chunks: i32,
    size: usize,
}

/// What the zip writer has written and Postgres does not have yet.
#[derive(Clone, Default)]
struct Buffer(Arc<Mutex<Vec<u8>>>);

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Buffer {
    /// The next bytes of a chunk, if there are enough, or whatever there is.
    fn take(&self, whole: bool) -> Option<Vec<u8>> {
        let mut bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let enough = if whole { CHUNK } else { 1 };
        (bytes.len() >= enough).then(|| {
            let length = bytes.len().min(CHUNK);
            let rest = bytes.split_off(length);
            std::mem::replace(&mut *bytes, rest)
        })
    }
}

#[derive(diesel::QueryableByName)]
struct Row {
    #[diesel(sql_type = Text)]
    row: String,
}

impl<'a> Archive<'a> {
    /// An empty one.
    pub fn new(app: &'a App, export: &'a Export) -> Self {
        let buffer = Buffer::default();
        Self { app, export, zip: ZipWriter::new_stream(buffer.clone()), buffer, chunks: 0, size: 0 }
    }

    /// Adds a file of text.
    pub async fn text(&mut self, name: &str, text: &str) -> Result<(), Error> {
        self.begin(name)?;
        self.write(text)?;
        self.store(true).await
    }

    /// Adds the rows of a file's query as a JSON array. `conn` is in a transaction.
    pub async fn rows(&mut self, conn: &mut Conn, folder: &str, file: &File) -> Result<(), Error> {
        self.begin(&format!("{folder}/{}", file.name))?;
        // A cursor, not keys: each page costs the same without a key for each table, and all files show one moment.
        let declare = format!(
            "DECLARE archive NO SCROLL CURSOR FOR SELECT to_jsonb(row)::text AS row FROM ({}) AS row",
            file.query
        );
        diesel::sql_query(declare).bind::<SqlUuid, _>(self.export.account_id).execute(conn).await?;
        let mut separator = "[\n";
        loop {
            let rows: Vec<Row> = diesel::sql_query(format!("FETCH {PAGE} FROM archive")).load(conn).await?;
            for row in &rows {
                self.write(separator)?;
                self.write(&row.row)?;
                separator = ",\n";
            }
            self.store(true).await?;
            if rows.len() < PAGE {
                break;
            }
        }
        diesel::sql_query("CLOSE archive").execute(conn).await?;
        self.write(if separator == "[\n" { "[]\n" } else { "\n]\n" })
    }

    /// Ends it; returns its size in bytes.
    pub async fn finish(mut self) -> Result<i64, Error> {
        let zip = std::mem::replace(&mut self.zip, ZipWriter::new_stream(Buffer::default()));
        zip.finish().map_err(unwritten)?;
        self.store(false).await?;
        Ok(i64::try_from(self.size).unwrap_or(i64::MAX))
    }

    fn begin(&mut self, name: &str) -> Result<(), Error> {
        // More than 4 GiB must be possible, and can't be ruled out beforehand.
        self.zip.start_file(name, SimpleFileOptions::default().large_file(true)).map_err(unwritten)
    }

    fn write(&mut self, text: &str) -> Result<(), Error> {
        self.zip.write_all(text.as_bytes()).map_err(|error| unwritten(error.into()))
    }

    /// Stores what is there: whole chunks, or everything.
    async fn store(&mut self, whole: bool) -> Result<(), Error> {
        while let Some(bytes) = self.buffer.take(whole) {
            if !self.export.store(&mut *self.app.db.get().await?, self.chunks, &bytes).await? {
                return Err(superseded());
            }
            self.chunks += 1;
            self.size += bytes.len();
        }
        Ok(())
    }
}

/// The archive is gone, or another attempt has begun.
pub fn superseded() -> Error {
    Error::new(Reason::ResourceConflict, "another worker makes this archive, or nobody wants it any more")
}

fn unwritten(error: ZipError) -> Error {
    Error::internal("an archive can't be written", error)
}
