//! The `weir` executable: the supervisor, its workers, and the operator's commands.

mod cli;

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    abort_on_panic();
    cli::main()
}

/// A panic is a defect, and the process in which it happened is not to be trusted; but for threads that run codecs, which
/// share nothing with the others and may meet what nobody has thought of. They end the one stream that they met it in.
fn abort_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        if !std::thread::current().name().is_some_and(|name| name.starts_with(CODEC_THREADS)) {
            std::process::abort();
        }
    }));
}

/// What the names of such threads begin with.
const CODEC_THREADS: &str = "audio-";
