//! The store's database: schema, migrations, transactions, snapshots.
