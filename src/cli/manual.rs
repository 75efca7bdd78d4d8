//! `ftx completions` and `ftx man`: made from the same definitions as the help.

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, CommandFactory, ValueEnum};
use ftx_disk::failure::plain;

use super::exit::Exit;
use super::report::{say, told};

/// Print what a shell needs to complete ftx's words.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  ftx completions bash > ~/.local/share/bash-completion/completions/ftx\n  ftx completions fish > ~/.config/fish/completions/ftx.fish"
)]
pub struct Completions {
    /// Which shell
    #[arg(value_enum, value_name = "SHELL")]
    shell: Shell,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// Write the manual pages into a directory.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  ftx man ~/.local/share/man/man1")]
pub struct Man {
    /// The directory; it has to be there
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

impl Completions {
    pub fn run(self) -> Exit {
        use clap_complete::{Shell as Kind, generate};
        let kind = match self.shell {
            Shell::Bash => Kind::Bash,
            Shell::Zsh => Kind::Zsh,
            Shell::Fish => Kind::Fish,
        };
        let mut script = Vec::new();
        generate(kind, &mut super::Ftx::command(), "ftx", &mut script);
        let mut stdout = std::io::stdout().lock();
        told(stdout.write_all(&script).and_then(|()| stdout.flush()))
    }
}

impl Man {
    pub fn run(self) -> Exit {
        match clap_mangen::generate_to(super::Ftx::command(), &self.directory) {
            Ok(()) => Exit::Done,
            Err(error) => {
                let directory = self.directory.display();
                say(&format!("cannot write the manual pages to {directory}: {}", plain(&error)));
                Exit::Local
            }
        }
    }
}
