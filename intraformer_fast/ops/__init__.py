"""The ops below the public functions: which backend serves a call, and the call into it."""
