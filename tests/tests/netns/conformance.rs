//! The kernel dataplane passes the suite of all dataplanes.

use diolkos_agent::dataplane::conformance::{self, Device};

use crate::world::{ifindex, ip, on_a_node};

#[test]
fn the_kernel_passes_the_conformance_suite() {
    on_a_node(|world| {
        ip("link add dif00 type bridge");
        ip("link set dif00 up");
        let device = Device { name: "dif00".into(), ifindex: ifindex("dif00") };
        let mut kernel = world.open();
        for (name, case) in conformance::CASES {
            let start = std::time::Instant::now();
            conformance::run(name, *case, &mut kernel, &device).unwrap_or_else(|error| panic!("{error}"));
            println!("{name}: {:.2?}", start.elapsed());
        }
    });
}
