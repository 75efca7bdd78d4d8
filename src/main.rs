//! The `ftx` command.
#![deny(unsafe_code)]

mod cli;
mod memory;

fn main() -> std::process::ExitCode {
    memory::keep_small();
    cli::main()
}
