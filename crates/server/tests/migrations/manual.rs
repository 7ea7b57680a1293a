//! The statements of proto-docs/sql.md, run as they stand there.
