//! Generates the wire types from `proto/cluster.proto`, without a protoc.

fn main() -> anyhow::Result<()> {
    println!("cargo::rerun-if-changed=proto/cluster.proto");
    let descriptors = protox::compile(["cluster.proto"], ["proto"])?;
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}
