//! The least of Postgres's wire protocol, blocking: what is timed here is the server, and neither a
//! driver's task nor a runtime's wake-up.

use std::io::{BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// A statement, or the next message of a stream, may take so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// One session of the superuser, over TCP, without TLS and password.
pub(crate) struct Wire {
    stream: BufReader<TcpStream>,
    body: Vec<u8>,
}

impl Wire {
    pub(crate) fn connect(port: u16, database: &str) -> Result<Wire> {
        Wire::open(port, &[("user", "postgres"), ("database", database)])
    }

    /// A replication session that streams the publication `realtime` through a temporary slot.
    pub(crate) fn replicate(port: u16, database: &str, slot: &str) -> Result<Wire> {
        let parameters = [
            ("user", "postgres"),
            ("database", database),
            ("replication", "database"),
        ];
        let mut wire = Wire::open(port, &parameters)?;
        wire.run(&format!(
            "CREATE_REPLICATION_SLOT {slot} TEMPORARY LOGICAL pgoutput NOEXPORT_SNAPSHOT"
        ))?;
        wire.send(&format!(
            "START_REPLICATION SLOT {slot} LOGICAL 0/0 \
             (proto_version '1', publication_names 'realtime')"
        ))?;
        wire.until(b'W')?; // CopyBothResponse
        Ok(wire)
    }

    /// Runs SQL and returns when the server says that it is done.
    pub(crate) fn run(&mut self, sql: &str) -> Result<()> {
        self.send(sql)?;
        self.until(b'Z') // ReadyForQuery
    }

    /// The next message of the replicated stream: pgoutput's bytes. Keepalives are passed over.
    pub(crate) fn replicated(&mut self) -> Result<&[u8]> {
        const HEADER: usize = 1 + 8 + 8 + 8; // 'w', start, end, clock
        loop {
            let kind = self.read()?;
            if kind == b'd' && self.body.first() == Some(&b'w') {
                return self.body.get(HEADER..).context("a short XLogData");
            }
        }
    }

    fn open(port: u16, parameters: &[(&str, &str)]) -> Result<Wire> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut wire = Wire {
            stream: BufReader::new(stream),
            body: Vec::new(),
        };
        let mut startup = 0x0003_0000_u32.to_be_bytes().to_vec(); // version 3.0
        for (name, value) in parameters {
            startup.extend_from_slice(format!("{name}\0{value}\0").as_bytes());
        }
        startup.push(0);
        wire.write(&[], &startup)?;
        wire.until(b'Z')?;
        Ok(wire)
    }

    fn send(&mut self, sql: &str) -> Result<()> {
        self.write(b"Q", format!("{sql}\0").as_bytes())
    }

    fn write(&mut self, kind: &[u8], body: &[u8]) -> Result<()> {
        let length = u32::try_from(body.len() + 4)?;
        let message = [kind, &length.to_be_bytes(), body].concat();
        Ok(self.stream.get_mut().write_all(&message)?)
    }

    fn until(&mut self, wanted: u8) -> Result<()> {
        while self.read()? != wanted {}
        Ok(())
    }

    /// Reads a message into `body` and returns its kind.
    fn read(&mut self) -> Result<u8> {
        let mut header = [0; 5];
        self.stream.read_exact(&mut header)?;
        let [kind, length @ ..] = header;
        let length = u32::from_be_bytes(length)
            .checked_sub(4)
            .context("a message's length")?;
        self.body.resize(length as usize, 0);
        self.stream.read_exact(&mut self.body)?;
        if kind == b'E' {
            bail!(
                "postgres: {}",
                String::from_utf8_lossy(&self.body).replace('\0', " ")
            );
        }
        Ok(kind)
    }
}

/// The first column of an Insert whose columns are texts, as a number.
pub(crate) fn inserted_id(message: &[u8]) -> Option<usize> {
    // 'I', relation (4), 'N', number of columns (2), then per column 't', length (4), text
    let (b'I', rest) = message.split_first()? else {
        return None;
    };
    let column = rest.get(4 + 1 + 2..)?;
    let (b't', rest) = column.split_first()? else {
        return None;
    };
    let length = u32::from_be_bytes(rest.get(..4)?.try_into().ok()?) as usize;
    let text = std::str::from_utf8(rest.get(4..4 + length)?).ok()?;
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::inserted_id;

    #[test]
    fn the_first_column_of_an_insert() {
        let insert = b"I\0\0\0\x01N\0\x02t\0\0\0\x0242t\0\0\0\x01x";
        assert_eq!(inserted_id(insert), Some(42));
        assert_eq!(inserted_id(b"B\0\0\0\x01N\0\x02t\0\0\0\x0242"), None);
        for end in 0..14 {
            assert_eq!(inserted_id(&insert[..end]), None, "{end} bytes");
        }
    }
}
