//! What each domain holds about an account: how it is exported, and how it is erased.
//!
//! A domain says it as SQL, in a constant [`Part`] that joins the list in `server::personal_data`. Each table of the
//! database has to be in a file or among those that are left out; a test of `tests/it/privacy` reads the list and fails
//! otherwise, and another one looks for what an erasure has left anywhere.

/// What one domain holds about an account.
pub struct Part {
    /// The folder of its files in an archive.
    pub name: &'static str,
    /// What an archive has of it.
    pub files: &'static [File],
    /// Tables that have personal data, or could have, and are in no file, and why.
    pub left_out: &'static [(&'static str, &'static str)],
    /// Statements that erase it, in this order. `$1` is the account, `$2` its pseudonym in the audit log. Each is run until it
    /// changes no row more, in a transaction of its own: where there may be many rows it takes some at a time, and one that
    /// runs again finds nothing to do. What foreign keys erase along with the account needs none.
    pub erase: &'static [&'static str],
}

/// A file of an archive: a JSON array of objects.
pub struct File {
    /// Its name, with `.json`.
    pub name: &'static str,
    /// What it is, for the person who reads the archive.
    pub description: &'static str,
    /// Its objects, one a row; `$1` is the account. It is read through a cursor, so there may be any number of them.
    pub query: &'static str,
}
