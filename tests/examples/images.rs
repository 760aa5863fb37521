//! `cargo xtask image`: the offline images, as archives for `ctr images import`.

use anyhow::Result;
use diolkos_tests::cluster::images;

fn main() -> Result<()> {
    for archive in images()? {
        println!("{}", archive.display());
    }
    Ok(())
}
