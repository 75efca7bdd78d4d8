//! What becomes of what was under way when a connection ends.

use std::collections::VecDeque;

use ftx_protocol::RequestId;
use ftx_protocol::client::Event;

use super::{Job, Left, Work};

impl Job<'_, '_> {
    /// Ends the connection. What the server has acknowledged by then is done, and is told.
    pub(super) fn hear_last(&mut self) {
        let Some(pipe) = self.pipe.take() else { return };
        // All else is asked again, if there is another connection.
        for event in pipe.end(&self.client.interrupt) {
            match event {
                Event::Done(done) => self.acknowledged(&done),
                Event::Ok(okay) if self.is_for_good(okay.id) => self.okayed(okay.id),
                _ => {}
            }
        }
    }

    /// Whether what has been done stays so. The time of a directory does not, while something that was asked before it is
    /// to be asked again.
    fn is_for_good(&self, id: RequestId) -> bool {
        match self.under_way.get(&id) {
            Some(Work::Mkdir(mkdir)) if mkdir.mtime.is_some() => {
                self.under_way.first_key_value().is_some_and(|(first, _)| *first == id)
            }
            _ => true,
        }
    }

    /// What was under way on a connection that is gone has to be made again, in its order.
    pub(super) fn take_back(&mut self) {
        let mut again: VecDeque<Work> = VecDeque::new();
        for (_, work) in std::mem::take(&mut self.under_way) {
            again.push_back(match work {
                Work::Put(file) | Work::Resume(file) => {
                    self.asked.insert(file.number);
                    Work::Resume(file)
                }
                // The listing begins again.
                Work::Aborted | Work::List | Work::Remove(_) => continue,
                other => other,
            });
        }
        again.append(&mut self.again);
        // The time of a directory comes behind all that is put again into it.
        let barrier = self.next_number;
        for work in again {
            match work {
                Work::Mkdir(mkdir) if mkdir.mtime.is_some() => {
                    self.left.push_back(Left { barrier, mkdir });
                }
                other => self.again.push_back(other),
            }
        }
        self.unacknowledged_bytes = 0;
        self.remove_anew();
    }
}
