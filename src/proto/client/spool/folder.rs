//! The folder of a spool, as the log sees it.

/// Why a file cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// It is not there any more.
    Gone,
    /// The disk cannot read it.
    Medium,
    /// The file may be sound: this process may not read it, or has no means to.
    Other,
}

/// What a log does with files. Their names have no path. There are two folders: one on a disk, and one that the tests
/// have made up.
pub trait Folder {
    /// Why something could not be done.
    type Error;

    /// Why reading has failed; the disk's fault, unless the folder knows better.
    fn blame(_error: &Self::Error) -> Blame {
        Blame::Medium
    }

    /// A number that nobody can guess.
    fn random(&mut self) -> u64;
    /// The names of all files, with their lengths in bytes.
    fn list(&mut self) -> Result<Vec<(String, u64)>, Self::Error>;
    /// Makes an empty file. One of this name must not exist.
    fn create(&mut self, name: &str) -> Result<(), Self::Error>;
    /// Appends to the file that was made last. Says how many bytes got in, also where not all did.
    fn append(&mut self, name: &str, bytes: &[u8]) -> (usize, Result<(), Self::Error>);
    /// Cuts a file back to this length in bytes.
    fn truncate(&mut self, name: &str, length: u64) -> Result<(), Self::Error>;
    /// Returns when everything in the file would survive a power cut.
    fn sync(&mut self, name: &str) -> Result<(), Self::Error>;
    /// Returns when the names of all files would survive a power cut.
    fn sync_names(&mut self) -> Result<(), Self::Error>;
    /// Removes a file. A file that is gone already is no error.
    fn remove(&mut self, name: &str) -> Result<(), Self::Error>;
    /// Gives a file another name.
    fn rename(&mut self, name: &str, new: &str) -> Result<(), Self::Error>;
    /// Reads from this place on. Says how many bytes there were: less than asked for at the end of the file alone.
    fn read(&mut self, name: &str, from: u64, bytes: &mut [u8]) -> Result<usize, Self::Error>;
}
