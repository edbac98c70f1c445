//! Brings the schema up to date, and tells whether it is.

use std::borrow::Cow;

use sqlx::migrate::{Migrate, Migration, Migrator};
use sqlx::{AnyConnection, Connection, Row};

use crate::{Db, Engine, Error, run};

static SQLITE: Migrator = sqlx::migrate!("./sqlite");
static POSTGRES: Migrator = sqlx::migrate!("./postgres");

/// The migrations that a call of [`migrate`] has run, oldest first.
#[derive(Debug, PartialEq, Eq)]
pub struct Applied(pub Vec<Name>);

/// The migrations that [`check`] found missing, oldest first.
#[derive(Debug, PartialEq, Eq)]
pub struct Pending(pub Vec<Name>);

/// Number and description of a migration, as in its file name.
pub type Name = (i64, Cow<'static, str>);

/// Runs the migrations that the database lacks. Safe to call from many programs at once: one does the work, the others
/// wait and find it done.
///
/// Fails with [`Error::Newer`], and changes nothing, when the database was written by a newer program.
pub async fn migrate(db: &Db) -> Result<Applied, Error> {
    match db.engine {
        Engine::Sqlite => migrate_sqlite(db).await,
        Engine::Postgres => migrate_postgres(db).await,
    }
}

/// Tells which migrations the database lacks, without changing it.
pub async fn check(db: &Db) -> Result<Pending, Error> {
    let mut connection = db.read.acquire().await?;
    pending(&mut connection, db.engine).await.map(Pending)
}

/// sqlx has no lock for SQLite: the write lock of one transaction around all migrations is it.
async fn migrate_sqlite(db: &Db) -> Result<Applied, Error> {
    let mut transaction = db.begin_write().await?;
    let pending = pending(&mut transaction, db.engine).await?;
    SQLITE
        .run_direct(None, &mut *transaction, false)
        .await
        .map_err(Error::Migrate)?;
    transaction.commit().await?;
    Ok(Applied(pending))
}

/// The advisory lock waits as long as another node migrates, and a migration may take its time: on a connection of its
/// own, without the statement timeout. The lock ends with the connection, also when a migration fails.
async fn migrate_postgres(db: &Db) -> Result<Applied, Error> {
    let mut connection = db.write.acquire().await?.detach();
    run(&mut connection, "SET statement_timeout = 0").await?;
    connection.lock().await.map_err(Error::Migrate)?;
    let pending = pending(&mut connection, db.engine).await?;
    let migrated = POSTGRES
        .run_direct(None, &mut connection, false)
        .await
        .map_err(Error::Migrate);
    connection.close().await?;
    migrated.map(|()| Applied(pending))
}

async fn pending(connection: &mut AnyConnection, engine: Engine) -> Result<Vec<Name>, Error> {
    let known = known(engine);
    let applied = applied(connection, engine).await?;
    refuse_foreign(&known, &applied)?;
    let missing = known
        .into_iter()
        .filter(|known| applied.iter().all(|(version, _)| *version != known.version));
    Ok(missing
        .map(|migration| (migration.version, migration.description.clone()))
        .collect())
}

/// Refuses a database whose history is not a beginning of ours.
fn refuse_foreign(known: &[&Migration], applied: &[(i64, Vec<u8>)]) -> Result<(), Error> {
    let program = known.last().map_or(0, |migration| migration.version);
    let database = applied.last().map_or(0, |(version, _)| *version);
    if database > program {
        return Err(Error::Newer { database, program });
    }
    for (version, checksum) in applied {
        let ours = known.iter().find(|migration| migration.version == *version);
        if ours.is_none_or(|ours| *ours.checksum != **checksum) {
            return Err(Error::Changed(*version));
        }
    }
    Ok(())
}

fn known(engine: Engine) -> Vec<&'static Migration> {
    let migrator = match engine {
        Engine::Sqlite => &SQLITE,
        Engine::Postgres => &POSTGRES,
    };
    migrator.iter().collect()
}

async fn applied(connection: &mut AnyConnection, engine: Engine) -> Result<Vec<(i64, Vec<u8>)>, Error> {
    if !has_history(connection, engine).await? {
        return Ok(Vec::new());
    }
    let rows = sqlx::query("SELECT version, checksum FROM _sqlx_migrations ORDER BY version")
        .fetch_all(connection)
        .await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

async fn has_history(connection: &mut AnyConnection, engine: Engine) -> Result<bool, sqlx::Error> {
    let sql = match engine {
        Engine::Sqlite => "SELECT COUNT(*) FROM sqlite_master WHERE type = 'table' AND name = '_sqlx_migrations'",
        Engine::Postgres => "SELECT COUNT(to_regclass('_sqlx_migrations'))",
    };
    Ok(sqlx::query_scalar::<_, i64>(sql).fetch_one(connection).await? > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{empty_databases, test_databases};

    #[tokio::test]
    async fn an_empty_database_becomes_current() {
        for database in empty_databases().await {
            let first = migrate(&database.db).await.unwrap();
            assert_eq!(first.0.first().map(|(version, _)| *version), Some(1));
            assert_eq!(migrate(&database.db).await.unwrap(), Applied(Vec::new()));
            assert_eq!(check(&database.db).await.unwrap(), Pending(Vec::new()));
        }
    }

    #[tokio::test]
    async fn check_lists_what_is_missing_and_changes_nothing() {
        for database in empty_databases().await {
            let before = check(&database.db).await.unwrap();
            assert!(!before.0.is_empty());
            assert_eq!(check(&database.db).await.unwrap(), before);
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn many_programs_may_migrate_at_once() {
        for database in empty_databases().await {
            let mut programs = tokio::task::JoinSet::new();
            for _ in 0..8 {
                let again = database.open_again();
                programs.spawn(async move { migrate(&again.await).await.map(|applied| applied.0.len()) });
            }
            let ran: Vec<usize> = programs.join_all().await.into_iter().map(Result::unwrap).collect();
            assert_eq!(ran.iter().filter(|count| **count > 0).count(), 1, "{ran:?}");
        }
    }

    #[tokio::test]
    async fn a_newer_database_is_refused() {
        for database in test_databases().await {
            pretend_newer(&database.db).await;
            for refused in [
                migrate(&database.db).await.map(drop),
                check(&database.db).await.map(drop),
            ] {
                let message = refused.unwrap_err().to_string();
                assert!(
                    message.contains("schema version 9999") && message.contains("newer version"),
                    "{message}"
                );
            }
        }
    }

    #[tokio::test]
    async fn a_database_of_another_build_is_refused() {
        for database in test_databases().await {
            sqlx::query("UPDATE _sqlx_migrations SET checksum = $1 WHERE version = 1")
                .bind(vec![0_u8; 48])
                .execute(&database.db.write)
                .await
                .unwrap();
            assert!(matches!(migrate(&database.db).await, Err(Error::Changed(1))));
        }
    }

    #[tokio::test]
    async fn fortnights_begin_with_the_days_that_there_are() {
        const FORTNIGHT: i64 = 1_209_600_000;
        for database in empty_databases().await {
            migrate_to(&database.db, 3).await;
            // The last two days of one fortnight, the second of which ends in the next, and the first of that.
            for (day, requests) in [(FORTNIGHT - 90_000_000, 1), (FORTNIGHT - 3_600_000, 2), (FORTNIGHT, 4)] {
                let insert = "INSERT INTO usage_daily VALUES ($1, 1, 7, '', 'openai', 3, 'gpt', $2, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13)";
                let query = sqlx::query(insert).bind(day).bind(requests);
                query.execute(&database.db.write).await.unwrap();
            }
            migrate(&database.db).await.unwrap();
            let rows = sqlx::query("SELECT * FROM usage_fortnights ORDER BY fortnight_start")
                .fetch_all(&database.db.read)
                .await
                .unwrap();
            let numbers = |row: &sqlx::any::AnyRow| -> Vec<i64> {
                let columns = [0, 1, 2, 5].into_iter().chain(7..21);
                columns.map(|column| row.get(column)).collect()
            };
            let found: Vec<_> = rows.iter().map(numbers).collect();
            let expected = [
                vec![0, 1, 7, 3, 3, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26],
                vec![FORTNIGHT, 1, 7, 3, 4, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13],
            ];
            assert_eq!(found, expected, "{:?}", database.engine());
        }
    }

    /// Leaves a database as an older program would have.
    async fn migrate_to(db: &Db, version: i64) {
        let mut connection = db.write.acquire().await.unwrap();
        let migrator = match db.engine {
            Engine::Sqlite => &SQLITE,
            Engine::Postgres => &POSTGRES,
        };
        let migrated = migrator.run_direct(Some(version), &mut *connection, false).await;
        migrated.unwrap();
    }

    #[tokio::test]
    async fn the_audit_log_is_append_only() {
        for database in test_databases().await {
            sqlx::query(
                "INSERT INTO audit_log (at, actor_name, action, target, ip, request_id, result, key_id, previous_hash, hash)
                 VALUES (0, 'a', 'a', 'a', 'a', 'a', 'ok', 'k', '', 'h')",
            )
            .execute(&database.db.write)
            .await
            .unwrap();
            for sql in ["UPDATE audit_log SET actor_name = 'b'", "DELETE FROM audit_log"] {
                let error = sqlx::query(sql).execute(&database.db.write).await.unwrap_err();
                assert!(error.to_string().contains("append only"), "{error}");
            }
        }
    }

    /// Tables and columns are the same on both engines: each query is written once.
    #[test]
    fn both_engines_have_the_same_schema() {
        for (sqlite, postgres) in known(Engine::Sqlite).into_iter().zip(known(Engine::Postgres)) {
            assert_eq!(
                (sqlite.version, &sqlite.description),
                (postgres.version, &postgres.description)
            );
            assert_eq!(columns(sqlite.sql.as_str()), columns(postgres.sql.as_str()));
        }
        assert_eq!(known(Engine::Sqlite).len(), known(Engine::Postgres).len());
    }

    /// The first words of the lines inside CREATE TABLE, which are the column names.
    fn columns(sql: &str) -> Vec<&str> {
        let mut inside = false;
        let mut names = Vec::new();
        for line in sql.lines() {
            if line.starts_with("CREATE TABLE") {
                inside = true;
                names.push(line);
            } else if line.starts_with(')') {
                inside = false;
            } else if inside && !line.trim_start().starts_with("--") {
                names.extend(line.split_whitespace().next());
            }
        }
        names
    }

    async fn pretend_newer(db: &Db) {
        sqlx::query(
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
             SELECT 9999, 'later', success, checksum, 0 FROM _sqlx_migrations WHERE version = 1",
        )
        .execute(&db.write)
        .await
        .unwrap();
    }
}
