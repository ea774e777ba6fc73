//! `peerage devnet`: a network of processes on this machine, under load, and the check of what they wrote.

use std::io::Write;

use crate::{
    cli::DevnetArgs,
    devnet::{self, DevnetError, Options},
};

/// Does what `peerage devnet` says; `true` if everything is as it should be.
///
/// Must be called within a tokio runtime with time and I/O.
///
/// # Errors
/// [`DevnetError`]: the devnet did not come up. What is wrong with one that did is in the output.
pub async fn execute(args: DevnetArgs, out: &mut impl Write) -> Result<bool, DevnetError> {
    let executable = std::env::current_exe().map_err(DevnetError::io("find", "the executable of this process"))?;
    let (nodes, security) = (args.nodes.into(), args.security);
    let options = Options { executable, nodes, rate: args.rate, duration: args.duration, dir: args.dir, security };
    let summary = devnet::run(options, out).await?;
    if args.json {
        // A reader that went away does not change the result.
        let _ = writeln!(out, "{}", summary.to_json());
    }
    Ok(summary.ok())
}
