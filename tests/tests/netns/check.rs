//! `diolkos check` on the machine at hand.

use std::path::Path;

use diolkos_abi::config::Config;
use diolkos_agent::check::{self, Verdict};
use diolkos_agent::dataplane::kernel::Kernel;

use crate::world::on_a_node;

#[test]
fn this_machine_is_told_what_it_has_and_opens_the_dataplane_when_it_works() {
    on_a_node(|world| {
        let rows = check::table(&check::probe(&world.bpffs, Some(&world.cgroup), 61_000..=65_535));
        assert!(check::works(&rows), "{}", check::render(&rows));
        Kernel::open(&world.options(Config::default())).unwrap_or_else(|error| panic!("{error}"));
        let tcx = rows.iter().find(|row| row.what == "tcx").unwrap();
        assert_eq!(tcx.verdict == Verdict::Ok, crate::world::has_tcx());
        for row in &rows {
            assert!(row.verdict == Verdict::Ok || !row.note.is_empty(), "{row:?}");
        }
    });
}

#[test]
fn a_machine_without_a_bpf_file_system_cannot_work() {
    on_a_node(|world| {
        let rows = check::table(&check::probe(Path::new("/tmp"), Some(&world.cgroup), 61_000..=65_535));
        assert!(!check::works(&rows));
        let fails: Vec<_> = rows.iter().filter(|row| row.verdict == Verdict::Fails).map(|row| row.what).collect();
        assert_eq!(fails, ["bpf file system"]);
    });
}
