//! Compiles the gRPC contract without protoc.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = protox::compile(["proto/supervisor.proto", "proto/origin.proto", "proto/session.proto"], ["proto"])?;
    println!("cargo:rerun-if-changed=proto");
    tonic_prost_build::configure().compile_fds(files)?;
    Ok(())
}
