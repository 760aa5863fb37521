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
        for row in &rows {
            assert!(row.verdict == Verdict::Ok || !row.note.is_empty(), "{row:?}");
        }
    });
}

#[test]
fn what_this_kernel_lacks_is_what_came_after_it_and_each_lack_says_what_is_done_instead() {
    on_a_node(|world| {
        const CAME: [(&str, (u32, u32), &str); 3] = [
            ("tcx", (6, 6), "clsact"),
            ("result of system calls (set_retval)", (5, 18), "RST or ICMP"),
            ("cookie of network namespaces (SO_NETNS_COOKIE)", (5, 14), "cannot opt out"),
        ];
        let probe = check::probe(&world.bpffs, Some(&world.cgroup), 61_000..=65_535);
        let rows = check::table(&probe);
        for (what, since, instead) in CAME {
            let row = rows.iter().find(|row| row.what == what).unwrap();
            println!("Linux {}: {what}: {:?} {}", probe.kernel.release, row.verdict, row.note);
            if probe.kernel.version() >= since {
                assert_eq!((row.verdict, row.note.as_str()), (Verdict::Ok, ""), "{what}");
            } else {
                assert_eq!(row.verdict, Verdict::Fallback, "{what}");
                assert!(row.note.contains(instead), "{row:?}");
            }
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
