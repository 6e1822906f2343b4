//! Writes the seeds of every target into the directory named, as `TARGET/NAME`.

use std::path::PathBuf;

fn main() -> std::io::Result<()> {
    let into = std::env::args_os().nth(1).map(PathBuf::from);
    let into = into.ok_or_else(|| std::io::Error::other("usage: seeds DIRECTORY"))?;
    for (target, name, bytes) in layerctl::checks::seeds::all() {
        let directory = into.join(target);
        std::fs::create_dir_all(&directory)?;
        std::fs::write(directory.join(name), bytes)?;
    }
    Ok(())
}
