//! The command line: the only part that sees both the server and the client.

mod serve;
mod size;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Upload and download files to and from a box you own, and be certain about it.
#[derive(Debug, Parser)]
#[command(name = "ftx", version)]
struct Ftx {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Serve),
}

pub fn main() -> ExitCode {
    let result = match Ftx::parse().command {
        Command::Serve(serve) => serve.run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ftx: {error:#}");
            ExitCode::FAILURE
        }
    }
}
