import java.sql.Connection;
import java.sql.DatabaseMetaData;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.ResultSetMetaData;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.ArrayList;
import java.util.List;
import java.util.Properties;

/**
 * Connections: opening them, what they keep, changing rows, errors, and what DBeaver does first.
 */
final class SessionChecks {

  private SessionChecks() {}

  static List<Check> all(String url) {
    return List.of(
        Check.check(
            "session.connects", c -> Verify.equal(1, Verify.scalar(c, "SELECT 1"), "SELECT 1")),
        Check.check("session.connects_by_every_form_of_url", c -> urls(url)),
        Check.check("session.connects_with_user_and_password", c -> withUser(url)),
        Check.check("session.connects_with_properties", c -> withProperties(url)),
        Check.check("session.connects_to_a_catalog", c -> withCatalog(url)),
        Check.check("session.refuses_an_unknown_catalog", c -> withUnknownCatalog(url)),
        Check.check("session.keeps_temporary_tables", SessionChecks::temporaryTables),
        Check.check("session.has_temporary_tables_of_its_own", c -> ownTemporaryTables(c, url)),
        Check.check("session.counts_rows_changed", SessionChecks::counts),
        Check.check("session.tells_queries_from_updates", SessionChecks::queriesAndUpdates),
        Check.check("session.refuses_updates_as_queries", SessionChecks::mismatches),
        Check.check("session.has_transactions_in_sql", SessionChecks::transactionsInSql),
        Check.check("session.takes_autocommit_calls", SessionChecks::autocommit),
        Check.check("session.takes_settings", SessionChecks::settings),
        Check.check("session.has_a_catalog", SessionChecks::catalog),
        Check.check("session.uses_a_schema", SessionChecks::schema),
        Check.check("session.is_valid_until_closed", SessionChecks::validity),
        Check.check("session.runs_several_connections_at_once", c -> severalConnections(url)),
        Check.check("session.closes_with_results_open", c -> closeWithOpenResult(url)),
        Check.check("error.names_its_code", SessionChecks::errors),
        Check.check("error.in_mid_stream", SessionChecks::errorInMidStream),
        Check.check("error.in_a_prepared_statement", SessionChecks::errorInPrepared),
        Check.check("dbeaver.connects", SessionChecks::dbeaverConnects),
        Check.check("dbeaver.opens_a_table", SessionChecks::dbeaverOpensTable),
        Check.check("dbeaver.runs_a_script", SessionChecks::dbeaverRunsScript));
  }

  private static void urls(String url) throws SQLException {
    String bare = url.substring(0, url.indexOf('?'));
    for (String form :
        List.of(
            bare + "/?useEncryption=false",
            bare + ";useEncryption=false",
            bare.replace("127.0.0.1", "localhost") + "?useEncryption=0",
            url + "&user=a%40b&password=p%26w",
            url + "&token=some-token",
            url + "&unknown=1")) {
      try (Connection connection = DriverManager.getConnection(form)) {
        Verify.equal(1, Verify.scalar(connection, "SELECT 1"), form);
      }
    }
  }

  private static void withUser(String url) throws SQLException {
    try (Connection connection = DriverManager.getConnection(url, "ada", "secret")) {
      Verify.update(connection, "CREATE TEMP TABLE mine AS SELECT 7 AS x");
      Verify.equal(7, Verify.scalar(connection, "SELECT x FROM mine"), "x");
    }
  }

  private static void withProperties(String url) throws SQLException {
    Properties properties = new Properties();
    properties.setProperty("user", "ada");
    properties.setProperty("password", "secret");
    properties.setProperty("useEncryption", "false");
    properties.setProperty("threadPoolSize", "2");
    String bare = url.substring(0, url.indexOf('?'));
    try (Connection connection = DriverManager.getConnection(bare, properties)) {
      Verify.equal(1, Verify.scalar(connection, "SELECT 1"), "SELECT 1");
    }
  }

  private static void withCatalog(String url) throws Exception {
    Connection connection = DriverManager.getConnection(url + "&catalog=lake");
    Verify.equal("lake", Verify.scalar(connection, "SELECT current_catalog()"), "catalog");
    try {
      connection.close();
    } catch (SQLException error) {
      // Versions 17 and 18 close the session twice, the second time on a channel that is shut down.
      Verify.that(
          Verify.messages(error).contains("Channel shutdown invoked"), Verify.messages(error));
    }
  }

  private static void withUnknownCatalog(String url) throws Exception {
    SQLException error =
        Verify.refused(() -> DriverManager.getConnection(url + "&catalog=nowhere").close());
    Verify.that(Verify.messages(error).contains("catalog"), Verify.messages(error));
  }

  private static void temporaryTables(Connection connection) throws SQLException {
    Verify.update(connection, "CREATE TEMP TABLE kept (x INTEGER)");
    Verify.update(connection, "INSERT INTO kept VALUES (1), (2)");
    Verify.equal(3L, number(Verify.scalar(connection, "SELECT sum(x) FROM kept")), "sum");
    Verify.update(connection, "DROP TABLE kept");
  }

  private static void ownTemporaryTables(Connection connection, String url) throws Exception {
    Verify.update(connection, "CREATE TEMP TABLE own AS SELECT 1 AS x");
    try (Connection other = DriverManager.getConnection(url)) {
      SQLException error = Verify.refused(() -> Verify.scalar(other, "SELECT x FROM own"));
      Verify.that(Verify.messages(error).contains("[TABLE_NOT_FOUND]"), Verify.messages(error));
    }
    Verify.equal(1, Verify.scalar(connection, "SELECT x FROM own"), "x");
  }

  private static void counts(Connection connection) throws SQLException {
    Verify.update(connection, "CREATE TEMP TABLE counted (x INTEGER, y VARCHAR)");
    Verify.equal(
        3,
        Verify.update(connection, "INSERT INTO counted VALUES (1,'a'),(2,'b'),(3,'c')"),
        "insert");
    Verify.equal(2, Verify.update(connection, "UPDATE counted SET y = 'z' WHERE x > 1"), "update");
    Verify.equal(
        0, Verify.update(connection, "UPDATE counted SET y = 'z' WHERE x > 9"), "update of none");
    Verify.equal(1, Verify.update(connection, "DELETE FROM counted WHERE x = 1"), "delete");
    Verify.equal(
        List.of("2|z", "3|z"),
        Verify.rows(
            connection.createStatement().executeQuery("SELECT x, y FROM counted ORDER BY x"),
            "x",
            "y"),
        "rows");
    try (Statement statement = connection.createStatement()) {
      Verify.equal(
          4L,
          statement.executeLargeUpdate("INSERT INTO counted SELECT range, 'r' FROM range(4)"),
          "large");
    }
  }

  private static void queriesAndUpdates(Connection connection) throws SQLException {
    try (Statement statement = connection.createStatement()) {
      Verify.equal(true, statement.execute("SELECT 42 AS answer"), "SELECT has a result");
      try (ResultSet result = statement.getResultSet()) {
        Verify.that(result.next(), "a row");
        Verify.equal(42, result.getInt("answer"), "answer");
      }
      Verify.equal(-1, statement.getUpdateCount(), "update count of a query");
      Verify.equal(false, statement.getMoreResults(), "more results");
      Verify.equal(
          false, statement.execute("CREATE TEMP TABLE either (x INTEGER)"), "DDL has no result");
      Verify.equal(
          false, statement.execute("INSERT INTO either VALUES (1), (2)"), "DML has no result");
      Verify.equal(2, statement.getUpdateCount(), "update count");
      Verify.equal(null, statement.getResultSet(), "result of DML");
      Verify.equal(false, statement.getMoreResults(), "more results after DML");
      for (String query :
          List.of(
              "WITH t AS (SELECT 1) SELECT * FROM t",
              "VALUES (1), (2)",
              "SHOW TABLES",
              "DESCRIBE nyc.airlines",
              "EXPLAIN SELECT 1",
              "FROM nyc.airlines",
              "(SELECT 1)",
              "-- comment\nSELECT 1",
              "/* c */ SELECT 1;")) {
        Verify.equal(true, statement.execute(query), query);
        try (ResultSet result = statement.getResultSet()) {
          Verify.that(result.next(), "a row of " + query);
        }
      }
    }
  }

  private static void mismatches(Connection connection) throws Exception {
    Verify.update(connection, "CREATE TEMP TABLE target (x INTEGER)");
    try (Statement statement = connection.createStatement()) {
      Verify.readable(
          Verify.refused(() -> statement.executeQuery("INSERT INTO target VALUES (1)").close()));
      statement.executeUpdate("SELECT 1");
      Verify.equal(1, Verify.scalar(connection, "SELECT 1"), "the connection goes on");
    }
  }

  private static void transactionsInSql(Connection connection) throws SQLException {
    Verify.update(connection, "CREATE TEMP TABLE undone (x INTEGER)");
    Verify.update(connection, "BEGIN");
    Verify.update(connection, "INSERT INTO undone VALUES (1)");
    Verify.equal(1L, Verify.scalar(connection, "SELECT count(*) FROM undone"), "within");
    Verify.update(connection, "ROLLBACK");
    Verify.equal(0L, Verify.scalar(connection, "SELECT count(*) FROM undone"), "after ROLLBACK");
    Verify.update(connection, "BEGIN TRANSACTION");
    Verify.update(connection, "INSERT INTO undone VALUES (2)");
    Verify.update(connection, "COMMIT");
    Verify.equal(1L, Verify.scalar(connection, "SELECT count(*) FROM undone"), "after COMMIT");
  }

  private static void autocommit(Connection connection) throws SQLException {
    Verify.equal(true, connection.getAutoCommit(), "autocommit at first");
    connection.setAutoCommit(true);
    connection.setAutoCommit(false);
    connection.commit();
    connection.rollback();
    connection.setAutoCommit(true);
    Verify.equal(1, Verify.scalar(connection, "SELECT 1"), "SELECT 1");
  }

  private static void settings(Connection connection) throws SQLException {
    connection.getTransactionIsolation();
    connection.setTransactionIsolation(Connection.TRANSACTION_READ_COMMITTED);
    connection.setReadOnly(false);
    connection.isReadOnly();
    connection.setHoldability(ResultSet.HOLD_CURSORS_OVER_COMMIT);
    connection.getHoldability();
    Verify.equal(null, connection.getWarnings(), "warnings");
    connection.clearWarnings();
    connection.getClientInfo();
    connection.getNetworkTimeout();
    Verify.equal(1, Verify.scalar(connection, "SELECT 1"), "SELECT 1");
  }

  private static void catalog(Connection connection) throws SQLException {
    connection.getCatalog();
    connection.setCatalog("lake");
    Verify.equal("lake", connection.getCatalog(), "catalog");
    Verify.equal(
        "lake", Verify.scalar(connection, "SELECT current_catalog()"), "catalog of the server");
    Verify.equal(16L, Verify.scalar(connection, "SELECT count(*) FROM nyc.airlines"), "rows");
  }

  private static void schema(Connection connection) throws SQLException {
    connection.getSchema();
    Verify.equal("main", Verify.scalar(connection, "SELECT current_schema()"), "schema at first");
    Verify.update(connection, "USE nyc");
    Verify.equal("nyc", Verify.scalar(connection, "SELECT current_schema()"), "schema after USE");
    Verify.equal(16L, Verify.scalar(connection, "SELECT count(*) FROM airlines"), "rows");
    Verify.update(connection, "SET schema = 'main'");
    Verify.equal("main", Verify.scalar(connection, "SELECT current_schema()"), "schema after SET");
    connection.setSchema("nyc");
    Verify.equal("nyc", connection.getSchema(), "schema of the driver");
  }

  private static void validity(Connection connection) throws Exception {
    Verify.equal(true, connection.isValid(5), "valid");
    Verify.equal(false, connection.isClosed(), "closed");
    Statement statement = connection.createStatement();
    connection.close();
    Verify.equal(true, connection.isClosed(), "closed");
    Verify.equal(false, connection.isValid(5), "valid after close");
    Verify.refused(() -> statement.executeQuery("SELECT 1"));
    Verify.refused(connection::createStatement);
    connection.close();
  }

  private static void severalConnections(String url) throws Exception {
    List<Thread> threads = new ArrayList<>();
    List<String> found = new ArrayList<>();
    for (int i = 0; i < 4; i++) {
      int number = i;
      Thread thread =
          new Thread(
              () -> {
                String line;
                try (Connection connection = DriverManager.getConnection(url)) {
                  Verify.update(connection, "CREATE TEMP TABLE t AS SELECT " + number + " AS x");
                  line = number + "=" + Verify.scalar(connection, "SELECT x FROM t");
                } catch (SQLException error) {
                  line = number + ": " + error;
                }
                synchronized (found) {
                  found.add(line);
                }
              });
      thread.start();
      threads.add(thread);
    }
    for (Thread thread : threads) {
      thread.join();
    }
    found.sort(null);
    Verify.equal(List.of("0=0", "1=1", "2=2", "3=3"), found, "values");
  }

  private static void closeWithOpenResult(String url) throws SQLException {
    for (int i = 0; i < 3; i++) {
      try (Connection connection = DriverManager.getConnection(url)) {
        Statement statement = connection.createStatement();
        ResultSet result = statement.executeQuery("SELECT * FROM range(5000000)");
        Verify.that(result.next(), "a row");
        statement.close();
      }
    }
  }

  /** Statements and the codes of the errors that they give. */
  private static void errors(Connection connection) throws Exception {
    String[][] cases = {
      {"SELEC 1", "[SQL_SYNTAX"},
      {"SELECT * FROM nowhere", "[TABLE_NOT_FOUND]"},
      {"SELECT * FROM nowhere.airlines", "_NOT_FOUND]"},
      {"SELECT missing FROM nyc.airlines", "["},
      {"SELECT 'x'::INTEGER", "["},
      {"SELECT 1; SELECT 2", "[SQL_SYNTAX"},
      {"", "["},
      {"INSERT INTO nowhere VALUES (1)", "["},
      {"SELECT * FROM read_csv('/etc/passwd')", "["},
      {"ATTACH '/tmp/x.db'", "["},
      {"SET memory_limit = '1GB'", "["},
    };
    for (String[] each : cases) {
      SQLException error =
          Verify.refused(
              () -> {
                try (Statement statement = connection.createStatement()) {
                  statement.execute(each[0]);
                }
              });
      String text = Verify.messages(error);
      Verify.that(text.contains(each[1]), "expected " + each[1] + " for " + each[0] + ": " + text);
      Verify.that(text.matches("(?s).*\\[[A-Z_]+\\].*"), "a code for " + each[0] + ": " + text);
      Verify.readable(error);
      Verify.equal(1, Verify.scalar(connection, "SELECT 1"), "after " + each[0]);
    }
  }

  private static void errorInMidStream(Connection connection) throws Exception {
    String sql =
        "SELECT CASE WHEN range < 3000000 THEN range ELSE error('boom') END AS x FROM"
            + " range(3000001)";
    // The driver lets an error that is no SQLException through here.
    Exception error =
        Verify.failed(
            () -> {
              try (Statement statement = connection.createStatement();
                  ResultSet result = statement.executeQuery(sql)) {
                while (result.next()) {
                  result.getString(1);
                }
              }
            });
    Verify.that(Verify.messages(error).contains("[SQL_FAILED] boom"), Verify.messages(error));
    Verify.readable(error);
    Verify.equal(1, Verify.scalar(connection, "SELECT 1"), "the connection goes on");
  }

  private static void errorInPrepared(Connection connection) throws Exception {
    SQLException error =
        Verify.refused(
            () -> connection.prepareStatement("SELECT * FROM nowhere WHERE x = ?").close());
    Verify.that(Verify.messages(error).contains("[TABLE_NOT_FOUND]"), Verify.messages(error));
    Verify.readable(error);
  }

  /** What DBeaver asks when it opens a connection. */
  private static void dbeaverConnects(Connection connection) throws SQLException {
    connection.setAutoCommit(true);
    DatabaseMetaData metadata = connection.getMetaData();
    Verify.equal("Lakehouse Flight SQL", metadata.getDatabaseProductName(), "product");
    Verify.that(!metadata.getDatabaseProductVersion().isEmpty(), "version");
    metadata.getDriverName();
    metadata.getDriverVersion();
    metadata.getDatabaseMajorVersion();
    metadata.isReadOnly();
    Verify.equal("schema", metadata.getSchemaTerm(), "schema term");
    metadata.getProcedureTerm();
    Verify.equal("catalog", metadata.getCatalogTerm(), "catalog term");
    metadata.supportsBatchUpdates();
    metadata.supportsTransactions();
    metadata.supportsSavepoints();
    metadata.supportsMultipleResultSets();
    metadata.supportsIntegrityEnhancementFacility();
    metadata.supportsResultSetType(ResultSet.TYPE_SCROLL_INSENSITIVE);
    for (int level : new int[] {0, 1, 2, 4, 8}) {
      metadata.supportsTransactionIsolationLevel(level);
    }
    Verify.equal("\"", metadata.getIdentifierQuoteString(), "quote");
    Verify.that(metadata.getSQLKeywords().contains("qualify"), "keywords");
    metadata.storesUpperCaseIdentifiers();
    metadata.supportsMixedCaseQuotedIdentifiers();
    metadata.isCatalogAtStart();
    metadata.supportsSchemasInTableDefinitions();
    Verify.that(Verify.column(metadata.getTableTypes()).contains("TABLE"), "table types");
    metadata.getTypeInfo().close();
    Verify.equal(List.of("lake"), Verify.column(metadata.getCatalogs()), "catalogs");
    Verify.that(
        Verify.rows(metadata.getSchemas("lake", "%"), "TABLE_SCHEM").contains("nyc"),
        "schemas of lake");
    connection.getCatalog();
    connection.getSchema();
    Verify.that(connection.isValid(5), "valid");
  }

  /** What DBeaver asks when a table is opened: its columns and keys, then a page of its rows. */
  private static void dbeaverOpensTable(Connection connection) throws SQLException {
    DatabaseMetaData metadata = connection.getMetaData();
    Verify.equal(
        List.of("flights"),
        Verify.rows(metadata.getTables("lake", "nyc", "flights", null), "TABLE_NAME"),
        "tables");
    Verify.equal(
        19,
        Verify.rows(metadata.getColumns("lake", "nyc", "flights", "%"), "COLUMN_NAME").size(),
        "columns");
    Verify.equal(
        3,
        Verify.rows(metadata.getPrimaryKeys("lake", "nyc", "flights"), "COLUMN_NAME").size(),
        "key");
    metadata.getIndexInfo("lake", "nyc", "flights", false, true).close();
    Verify.equal(
        6,
        Verify.rows(metadata.getImportedKeys("lake", "nyc", "flights"), "FK_NAME").size(),
        "keys");
    metadata.getExportedKeys("lake", "nyc", "flights").close();
    try (Statement statement =
        connection.createStatement(ResultSet.TYPE_FORWARD_ONLY, ResultSet.CONCUR_READ_ONLY)) {
      statement.setFetchSize(200);
      statement.setMaxRows(200);
      statement.setQueryTimeout(60);
      Verify.equal(
          true, statement.execute("SELECT f.* FROM \"lake\".\"nyc\".\"flights\" f"), "a result");
      try (ResultSet result = statement.getResultSet()) {
        ResultSetMetaData columns = result.getMetaData();
        Verify.equal(19, columns.getColumnCount(), "columns");
        int rows = 0;
        while (result.next()) {
          rows++;
          for (int i = 1; i <= columns.getColumnCount(); i++) {
            fetchAsDbeaver(result, columns.getColumnType(i), i);
          }
        }
        Verify.equal(200, rows, "rows");
        statement.getWarnings();
      }
      statement.getMoreResults();
      statement.getUpdateCount();
    }
  }

  /** DBeaver reads dates and times by their own getters and all else as objects. */
  private static void fetchAsDbeaver(ResultSet result, int type, int column) throws SQLException {
    switch (type) {
      case java.sql.Types.TIME -> result.getTime(column);
      case java.sql.Types.DATE -> result.getDate(column);
      case java.sql.Types.VARCHAR -> result.getString(column);
      default -> result.getObject(column);
    }
    result.wasNull();
  }

  /** What DBeaver's editor sends for a script and for an edited grid. */
  private static void dbeaverRunsScript(Connection connection) throws SQLException {
    List<String> script =
        List.of(
            "CREATE TEMP TABLE \"edited\" (id INTEGER, name VARCHAR)",
            "INSERT INTO \"edited\" VALUES (1, 'one'), (2, 'two')",
            "SELECT count(*) FROM (\nSELECT * FROM \"edited\"\n) dbvrcnt",
            "SELECT * FROM \"edited\" ORDER BY name DESC LIMIT 200");
    for (String sql : script) {
      try (Statement statement = connection.createStatement()) {
        statement.setMaxRows(200);
        if (statement.execute(sql)) {
          statement.getResultSet().close();
        }
      }
    }
    try (PreparedStatement statement = connection.prepareStatement("SELECT * FROM \"edited\"")) {
      Verify.equal(true, statement.execute(), "a prepared query has a result");
      Verify.equal(
          List.of("1|one", "2|two"), Verify.rows(statement.getResultSet(), "id", "name"), "rows");
    }
  }

  private static long number(Object value) {
    return ((Number) value).longValue();
  }
}
