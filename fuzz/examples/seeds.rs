//! Writes the seeds into a folder, one folder per target below it.

use std::fs;
use std::path::PathBuf;

fn main() -> std::io::Result<()> {
    let Some(folder) = std::env::args_os().nth(1).map(PathBuf::from) else {
        return Err(std::io::Error::other("name the folder, for example fuzz/corpus"));
    };
    for (number, (name, bytes)) in chive_fuzz::seeds::seeds().into_iter().enumerate() {
        fs::create_dir_all(folder.join(name))?;
        fs::write(folder.join(name).join(format!("seed-{number:02}")), bytes)?;
    }
    Ok(())
}
