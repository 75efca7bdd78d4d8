//! The line of progress on stderr, where somebody can see it.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::report::Form;

/// The line.
pub struct Progress {
    /// Hidden where nobody can see it.
    pub bar: ProgressBar,
    /// Columns that it is made for; 0 when it is to be made anew.
    columns: u16,
}

impl Progress {
    /// `length` is how many bytes are to be moved, if known.
    pub fn new(form: Form, length: Option<u64>) -> Self {
        let is_seen = form.shows_progress() && std::io::stderr().is_terminal();
        let bar = if is_seen {
            ProgressBar::with_draw_target(length, ProgressDrawTarget::stderr())
        } else {
            ProgressBar::hidden()
        };
        Self { bar, columns: 0 }
    }

    /// Fits the line to the terminal, which may have another width than before.
    pub fn fit(&mut self, template: impl FnOnce(u16) -> &'static str) {
        if self.bar.is_hidden() {
            return;
        }
        let columns = terminal_columns();
        if columns == self.columns {
            return;
        }
        self.columns = columns;
        // The template is ours; were it wrong, the bar would only look different.
        if let Ok(style) = ProgressStyle::with_template(template(columns)) {
            self.bar.set_style(style);
        }
    }

    /// The template may be another one from now on.
    pub fn make_anew(&mut self) {
        self.columns = 0;
    }
}

/// Of the terminal at stderr. One that does not say is taken to be of the usual width.
fn terminal_columns() -> u16 {
    const USUAL: u16 = 80;
    match rustix::termios::tcgetwinsize(std::io::stderr()) {
        Ok(size) if size.ws_col > 0 => size.ws_col,
        _ => USUAL,
    }
}
