//! The client's side of TLS, made by hand.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use ftx_channel::{Pin, Sight, Tls, Trust, client_config};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::PATIENCE;

/// The client's side of a connection inside TLS, which gives up what takes longer than patience.
pub struct Secured {
    pub socket: TcpStream,
    pub tls: Tls,
}

impl Secured {
    pub fn connect(server: SocketAddr, pin: Pin) -> io::Result<Self> {
        Self::over(TcpStream::connect(server)?, pin)
    }

    /// Goes through the handshake.
    pub fn over(socket: TcpStream, pin: Pin) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        socket.set_nodelay(true)?;
        let config = client_config(Trust::Pin(pin), &Sight::default()).unwrap();
        let tls = Tls::connect(&config, "ftx").unwrap();
        let secured = Self { socket, tls };
        while !secured.tls.is_ready() {
            match secured.tls.read(&mut &secured.socket, &mut [0]) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if !secured.tls.is_ready() {
                        secured.wait(PollFlags::IN)?;
                    }
                }
                Err(error) => return Err(error),
                Ok(_) => return Err(ErrorKind::UnexpectedEof.into()),
            }
        }
        secured.all_out(|| secured.tls.flush(&mut &secured.socket))?;
        Ok(secured)
    }

    /// Says that nothing more will be said.
    pub fn end(&mut self) {
        self.all_out(|| self.tls.close(&mut &self.socket)).unwrap();
        let _ = self.socket.shutdown(Shutdown::Write);
    }

    fn all_out<T>(&self, mut act: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        loop {
            match act() {
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.wait(PollFlags::OUT)?,
                result => return result,
            }
        }
    }

    fn wait(&self, what: PollFlags) -> io::Result<()> {
        let patience = Timespec { tv_sec: PATIENCE.as_secs().try_into().unwrap(), tv_nsec: 0 };
        match poll(&mut [PollFd::new(&self.socket, what)], Some(&patience))? {
            0 => Err(ErrorKind::TimedOut.into()),
            _ => Ok(()),
        }
    }
}

impl Read for Secured {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.tls.read(&mut &self.socket, room) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.wait(PollFlags::IN)?,
                result => return result,
            }
        }
    }
}

impl Write for Secured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.all_out(|| self.tls.write(&mut &self.socket, bytes))?;
        self.flush()?;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.all_out(|| self.tls.flush(&mut &self.socket))
    }
}
