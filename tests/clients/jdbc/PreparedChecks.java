import java.math.BigDecimal;
import java.sql.Connection;
import java.sql.Date;
import java.sql.ParameterMetaData;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.ResultSetMetaData;
import java.sql.SQLException;
import java.sql.Time;
import java.sql.Timestamp;
import java.sql.Types;
import java.util.Arrays;
import java.util.List;

/** Prepared statements: parameters of every type, queries and changes, batches. */
final class PreparedChecks {

  private PreparedChecks() {}

  static List<Check> all() {
    return List.of(
        Check.check("prepared.without_parameters", PreparedChecks::withoutParameters),
        Check.check("prepared.tells_its_columns", PreparedChecks::columns),
        Check.check("prepared.tells_its_parameters", PreparedChecks::parameters),
        Check.check(
            "prepared.string",
            c -> trip(c, "VARCHAR", (s, i) -> s.setString(i, "Grüße 'x'"), "Grüße 'x'")),
        Check.check("prepared.int", c -> trip(c, "INTEGER", (s, i) -> s.setInt(i, -7), "-7")),
        Check.check(
            "prepared.long",
            c -> trip(c, "BIGINT", (s, i) -> s.setLong(i, 5_000_000_000L), "5000000000")),
        Check.check(
            "prepared.short",
            c -> trip(c, "SMALLINT", (s, i) -> s.setShort(i, (short) 300), "300")),
        Check.check(
            "prepared.byte", c -> trip(c, "TINYINT", (s, i) -> s.setByte(i, (byte) 3), "3")),
        Check.check(
            "prepared.double", c -> trip(c, "DOUBLE", (s, i) -> s.setDouble(i, 2.5), "2.5")),
        Check.check("prepared.float", c -> trip(c, "FLOAT", (s, i) -> s.setFloat(i, 1.5f), "1.5")),
        Check.check(
            "prepared.decimal",
            c ->
                trip(
                    c,
                    "DECIMAL(10,2)",
                    (s, i) -> s.setBigDecimal(i, new BigDecimal("12.34")),
                    "12.34")),
        Check.check(
            "prepared.boolean", c -> trip(c, "BOOLEAN", (s, i) -> s.setBoolean(i, true), "true")),
        Check.check(
            "prepared.date",
            c -> trip(c, "DATE", (s, i) -> s.setDate(i, Date.valueOf("2024-02-29")), "2024-02-29")),
        Check.check(
            "prepared.time",
            c -> trip(c, "TIME", (s, i) -> s.setTime(i, Time.valueOf("12:34:56")), "12:34:56")),
        Check.check("prepared.timestamp", PreparedChecks::timestamp),
        Check.check("prepared.timestamptz", PreparedChecks::timestamptz),
        Check.check("prepared.bytes", PreparedChecks::bytes),
        Check.check("prepared.array", PreparedChecks::array),
        Check.check("prepared.long_text", PreparedChecks::longText),
        Check.check("prepared.numbers_of_other_types", PreparedChecks::otherNumbers),
        Check.check("prepared.object", PreparedChecks::objects),
        Check.check("prepared.null", PreparedChecks::nulls),
        Check.check("prepared.filters_the_sample", PreparedChecks::filters),
        Check.check("prepared.parameters_in_odd_places", PreparedChecks::oddPlaces),
        Check.check("prepared.runs_again_with_other_values", PreparedChecks::again),
        Check.check("prepared.inserts_every_type", PreparedChecks::insertsEveryType),
        Check.check("prepared.changes_rows_and_counts", PreparedChecks::changes),
        Check.check("prepared.batch", PreparedChecks::batch),
        Check.check("prepared.large_batch", PreparedChecks::largeBatch),
        Check.check("prepared.needs_all_parameters", PreparedChecks::tooFew),
        Check.check("prepared.several_at_once", PreparedChecks::several),
        Check.check("prepared.update_without_parameters", PreparedChecks::updateWithoutParameters));
  }

  /** Sets one parameter. */
  private interface Setter {
    void set(PreparedStatement statement, int parameter) throws SQLException;
  }

  /** Through a cast in a query, and through a temporary table with a column of the type. */
  private static void trip(Connection connection, String type, Setter setter, String text)
      throws SQLException {
    try (PreparedStatement statement = connection.prepareStatement("SELECT ?::" + type + " AS v")) {
      setter.set(statement, 1);
      Verify.equal(text, single(statement), "a query's value");
    }
    Verify.update(connection, "CREATE TEMP TABLE trip (v " + type + ")");
    try (PreparedStatement statement = connection.prepareStatement("INSERT INTO trip VALUES (?)")) {
      setter.set(statement, 1);
      Verify.equal(1, statement.executeUpdate(), "rows inserted");
    }
    try (PreparedStatement statement =
        connection.prepareStatement("SELECT v FROM trip WHERE v = ?")) {
      setter.set(statement, 1);
      Verify.equal(text, single(statement), "the value found");
    }
  }

  private static String single(PreparedStatement statement) throws SQLException {
    try (ResultSet result = statement.executeQuery()) {
      Verify.that(result.next(), "a row");
      String text = result.getString(1);
      Verify.equal(false, result.next(), "a second row");
      return text;
    }
  }

  private static void withoutParameters(Connection connection) throws SQLException {
    try (PreparedStatement statement =
        connection.prepareStatement("SELECT count(*) FROM nyc.airlines")) {
      for (int i = 0; i < 3; i++) {
        Verify.equal("16", single(statement), "rows");
      }
      Verify.equal(0, statement.getParameterMetaData().getParameterCount(), "parameters");
    }
  }

  private static void columns(Connection connection) throws SQLException {
    String sql =
        "SELECT carrier, sum(distance) AS total FROM nyc.flights WHERE month = ? GROUP BY carrier";
    try (PreparedStatement statement = connection.prepareStatement(sql)) {
      ResultSetMetaData metadata = statement.getMetaData();
      Verify.equal(2, metadata.getColumnCount(), "columns");
      Verify.equal("carrier", metadata.getColumnLabel(1), "first");
      Verify.equal(Types.VARCHAR, metadata.getColumnType(1), "its type");
      Verify.equal("total", metadata.getColumnLabel(2), "second");
    }
  }

  private static void parameters(Connection connection) throws SQLException {
    String sql =
        "SELECT * FROM nyc.flights WHERE carrier = ? AND month = ? AND air_time * 1.5::DOUBLE >"
            + " ?::DOUBLE";
    try (PreparedStatement statement = connection.prepareStatement(sql)) {
      ParameterMetaData metadata = statement.getParameterMetaData();
      Verify.equal(3, metadata.getParameterCount(), "parameters");
      Verify.equal(Types.VARCHAR, metadata.getParameterType(1), "type of carrier");
      Verify.equal(Types.INTEGER, metadata.getParameterType(2), "type of month");
      Verify.equal(Types.DOUBLE, metadata.getParameterType(3), "type of the cast");
      for (int i = 1; i <= 3; i++) {
        metadata.getParameterClassName(i);
        Verify.that(metadata.getParameterTypeName(i) != null, "type name");
        metadata.getPrecision(i);
        metadata.getScale(i);
        metadata.isNullable(i);
        metadata.isSigned(i);
        metadata.getParameterMode(i);
      }
    }
  }

  private static void timestamp(Connection connection) throws SQLException {
    Timestamp value = Timestamp.valueOf("2024-02-29 12:34:56.789");
    trip(connection, "TIMESTAMP", (s, i) -> s.setTimestamp(i, value), "2024-02-29 12:34:56.789");
  }

  private static void timestamptz(Connection connection) throws SQLException {
    String sql = "SELECT count(*) FROM nyc.flights WHERE time_hour < ";
    try (PreparedStatement statement = connection.prepareStatement(sql + "?")) {
      statement.setTimestamp(1, Timestamp.valueOf("2013-02-01 00:00:00"));
      Object expected = Verify.scalar(connection, sql + "'2013-02-01 00:00:00+00'");
      Verify.equal(expected.toString(), single(statement), "rows");
    }
  }

  private static void array(Connection connection) throws SQLException {
    try (PreparedStatement statement =
        connection.prepareStatement("SELECT list_sum(?::INTEGER[])")) {
      statement.setArray(1, connection.createArrayOf("INTEGER", new Object[] {1, 2, 39}));
      Verify.equal("42", single(statement), "sum");
    }
  }

  private static void longText(Connection connection) throws SQLException {
    try (PreparedStatement statement = connection.prepareStatement("SELECT length(?::VARCHAR)")) {
      statement.setString(1, "x".repeat(6_000_000));
      Verify.equal("6000000", single(statement), "length");
    }
  }

  private static void otherNumbers(Connection connection) throws SQLException {
    try (PreparedStatement statement =
        connection.prepareStatement("SELECT count(*) FROM nyc.flights WHERE month = ?")) {
      statement.setLong(1, 4);
      Verify.equal("28330", single(statement), "a long for an INTEGER");
      statement.setShort(1, (short) 4);
      Verify.equal("28330", single(statement), "a short for an INTEGER");
      statement.setBigDecimal(1, BigDecimal.valueOf(4));
      Verify.equal("28330", single(statement), "a decimal for an INTEGER");
    }
  }

  private static void bytes(Connection connection) throws SQLException {
    byte[] value = {0, 1, -1, 65};
    Verify.update(connection, "CREATE TEMP TABLE bytes (v BLOB)");
    try (PreparedStatement statement =
        connection.prepareStatement("INSERT INTO bytes VALUES (?)")) {
      statement.setBytes(1, value);
      Verify.equal(1, statement.executeUpdate(), "rows inserted");
    }
    Verify.equal(value, Verify.scalar(connection, "SELECT v FROM bytes"), "bytes");
  }

  private static void objects(Connection connection) throws SQLException {
    String sql =
        "SELECT ?::INTEGER || '|' || ?::VARCHAR || '|' || ?::DOUBLE || '|' || ?::BOOLEAN || '|' ||"
            + " ?::DATE";
    try (PreparedStatement statement = connection.prepareStatement(sql)) {
      statement.setObject(1, 5);
      statement.setObject(2, "five");
      statement.setObject(3, 5.5);
      statement.setObject(4, false);
      statement.setObject(5, Date.valueOf("2024-02-29"));
      Verify.equal("5|five|5.5|false|2024-02-29", single(statement), "values");
    }
  }

  private static void nulls(Connection connection) throws SQLException {
    for (String type :
        List.of(
            "VARCHAR",
            "INTEGER",
            "BIGINT",
            "DOUBLE",
            "DECIMAL(10,2)",
            "BOOLEAN",
            "DATE",
            "TIMESTAMP")) {
      try (PreparedStatement statement =
          connection.prepareStatement("SELECT ?::" + type + " AS v")) {
        statement.setNull(1, Types.NULL);
        Verify.equal(null, single(statement), "null of " + type);
      }
    }
    Verify.update(connection, "CREATE TEMP TABLE nulls (a INTEGER, b VARCHAR)");
    try (PreparedStatement statement =
        connection.prepareStatement("INSERT INTO nulls VALUES (?, ?)")) {
      statement.setNull(1, Types.INTEGER);
      statement.setObject(2, null);
      Verify.equal(1, statement.executeUpdate(), "rows inserted");
    }
    Verify.equal(
        1L,
        Verify.scalar(connection, "SELECT count(*) FROM nulls WHERE a IS NULL AND b IS NULL"),
        "rows of nulls");
  }

  private static void filters(Connection connection) throws SQLException {
    String sql =
        "SELECT count(*) FROM nyc.flights WHERE carrier = ? AND month BETWEEN ? AND ? AND time_hour"
            + " >= ? AND origin IN (?, ?)";
    try (PreparedStatement statement = connection.prepareStatement(sql)) {
      statement.setString(1, "UA");
      statement.setInt(2, 1);
      statement.setInt(3, 12);
      statement.setTimestamp(4, Timestamp.valueOf("2013-01-01 00:00:00"));
      statement.setString(5, "EWR");
      statement.setString(6, "LGA");
      String expected =
          Verify.scalar(
                  connection,
                  "SELECT count(*) FROM nyc.flights WHERE carrier = 'UA' AND origin IN ('EWR',"
                      + " 'LGA')")
              .toString();
      Verify.equal(expected, single(statement), "rows");
    }
  }

  private static void oddPlaces(Connection connection) throws SQLException {
    try (PreparedStatement statement =
        connection.prepareStatement(
            "SELECT name FROM nyc.airlines WHERE name LIKE ? ORDER BY name LIMIT ? OFFSET ?")) {
      statement.setString(1, "%Air%");
      statement.setLong(2, 2);
      statement.setLong(3, 1);
      Verify.equal(2, Verify.column(statement.executeQuery()).size(), "rows");
    }
    try (PreparedStatement statement =
        connection.prepareStatement("SELECT * FROM range(?) t(x) WHERE x + ? > 3")) {
      statement.setLong(1, 5);
      statement.setLong(2, 1);
      Verify.equal(List.of("3", "4"), Verify.column(statement.executeQuery()), "rows");
    }
    try (PreparedStatement statement =
        connection.prepareStatement(
            "SELECT CASE WHEN x = ? THEN 'one' ELSE ? END FROM (VALUES (1), (2)) t(x)")) {
      statement.setInt(1, 1);
      statement.setString(2, "other");
      Verify.equal(List.of("one", "other"), Verify.column(statement.executeQuery()), "rows");
    }
  }

  private static void again(Connection connection) throws SQLException {
    try (PreparedStatement statement =
        connection.prepareStatement("SELECT name FROM nyc.airlines WHERE carrier = ?")) {
      String[][] names = {
        {"UA", "United Air Lines Inc."}, {"B6", "JetBlue Airways"}, {"UA", "United Air Lines Inc."}
      };
      for (String[] each : names) {
        statement.setString(1, each[0]);
        Verify.equal(each[1], single(statement), each[0]);
      }
      statement.clearParameters();
      statement.setString(1, "nothing");
      Verify.equal(List.of(), Verify.column(statement.executeQuery()), "no airline");
    }
  }

  private static void insertsEveryType(Connection connection) throws SQLException {
    Verify.update(
        connection,
        "CREATE TEMP TABLE every (a VARCHAR, b INTEGER, c BIGINT, d DOUBLE, e DECIMAL(18,3), f"
            + " BOOLEAN, g DATE, h TIME, i TIMESTAMP, j BLOB, k SMALLINT, l UUID)");
    String sql = "INSERT INTO every VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
    try (PreparedStatement statement = connection.prepareStatement(sql)) {
      Verify.equal(12, statement.getParameterMetaData().getParameterCount(), "parameters");
      statement.setString(1, "text");
      statement.setInt(2, 1);
      statement.setLong(3, 2);
      statement.setDouble(4, 3.5);
      statement.setBigDecimal(5, new BigDecimal("4.125"));
      statement.setBoolean(6, true);
      statement.setDate(7, Date.valueOf("2024-02-29"));
      statement.setTime(8, Time.valueOf("01:02:03"));
      statement.setTimestamp(9, Timestamp.valueOf("2024-02-29 01:02:03"));
      statement.setBytes(10, new byte[] {1, 2});
      statement.setShort(11, (short) 6);
      statement.setString(12, "8b2b1c3e-0000-4000-8000-0123456789ab");
      Verify.equal(1, statement.executeUpdate(), "rows inserted");
    }
    Verify.equal(
        List.of(
            "text|1|2|3.5|4.125|true|2024-02-29|01:02:03|2024-02-29"
                + " 01:02:03|2|6|8b2b1c3e-0000-4000-8000-0123456789ab"),
        Verify.column(
            connection
                .createStatement()
                .executeQuery(
                    "SELECT concat_ws('|', a, b, c, d, e, f, g, h, i, octet_length(j), k, l) FROM"
                        + " every")),
        "row");
  }

  private static void changes(Connection connection) throws SQLException {
    Verify.update(
        connection,
        "CREATE TEMP TABLE changed AS SELECT range::INTEGER AS id, 'old' AS name FROM range(10)");
    try (PreparedStatement statement =
        connection.prepareStatement("UPDATE changed SET name = ? WHERE id >= ?")) {
      statement.setString(1, "new");
      statement.setInt(2, 6);
      Verify.equal(4, statement.executeUpdate(), "rows updated");
      statement.setInt(2, 100);
      Verify.equal(0, statement.executeUpdate(), "rows updated");
    }
    try (PreparedStatement statement =
        connection.prepareStatement("DELETE FROM changed WHERE name = ?")) {
      statement.setString(1, "old");
      Verify.equal(6L, changed(statement), "rows deleted");
    }
    Verify.equal(4L, Verify.scalar(connection, "SELECT count(*) FROM changed"), "rows left");
  }

  /**
   * Executes a change without saying that it is one. The driver gives its count as a result then.
   */
  private static long changed(PreparedStatement statement) throws SQLException {
    if (!statement.execute()) {
      return statement.getUpdateCount();
    }
    try (ResultSet result = statement.getResultSet()) {
      Verify.that(result.next(), "a count");
      return result.getLong(1);
    }
  }

  private static void batch(Connection connection) throws SQLException {
    Verify.update(connection, "CREATE TEMP TABLE batched (id INTEGER, name VARCHAR)");
    try (PreparedStatement statement =
        connection.prepareStatement("INSERT INTO batched VALUES (?, ?)")) {
      for (int i = 0; i < 3; i++) {
        statement.setInt(1, i);
        statement.setString(2, "n" + i);
        statement.addBatch();
      }
      // The driver tells one number for the whole batch.
      Verify.equal(3, Arrays.stream(statement.executeBatch()).sum(), "rows inserted");
    }
    Verify.equal(
        List.of("0|n0", "1|n1", "2|n2"),
        Verify.rows(
            connection.createStatement().executeQuery("SELECT * FROM batched ORDER BY id"),
            "id",
            "name"),
        "rows");
  }

  private static void largeBatch(Connection connection) throws SQLException {
    Verify.update(connection, "CREATE TEMP TABLE many (id BIGINT, name VARCHAR)");
    try (PreparedStatement statement =
        connection.prepareStatement("INSERT INTO many VALUES (?, ?)")) {
      for (int i = 0; i < 2_000; i++) {
        statement.setLong(1, i);
        statement.setString(2, "name " + i);
        statement.addBatch();
      }
      Verify.equal(2_000, Arrays.stream(statement.executeBatch()).sum(), "rows inserted");
    }
    Verify.equal(
        "1999000",
        Verify.scalar(connection, "SELECT sum(id)::VARCHAR FROM many WHERE name = 'name ' || id"),
        "sum");
  }

  private static void tooFew(Connection connection) throws Exception {
    try (PreparedStatement statement =
        connection.prepareStatement("SELECT ?::INTEGER + ?::INTEGER")) {
      statement.setInt(1, 1);
      Verify.refused(() -> statement.setInt(3, 1));
      Verify.refused(statement::executeQuery);
    }
    Verify.equal(1, Verify.scalar(connection, "SELECT 1"), "the connection goes on");
    try {
      connection.close();
    } catch (SQLException error) {
      // The driver forgets the parameters that it had bound.
      Verify.that(Verify.messages(error).contains("Memory was leaked"), Verify.messages(error));
    }
  }

  private static void several(Connection connection) throws SQLException {
    try (PreparedStatement left = connection.prepareStatement("SELECT ?::INTEGER AS x");
        PreparedStatement right = connection.prepareStatement("SELECT ?::INTEGER * 10 AS x")) {
      for (int i = 0; i < 20; i++) {
        left.setInt(1, i);
        right.setInt(1, i);
        Verify.equal(String.valueOf(i), single(left), "left");
        Verify.equal(String.valueOf(i * 10), single(right), "right");
      }
    }
  }

  private static void updateWithoutParameters(Connection connection) throws SQLException {
    try (PreparedStatement statement =
        connection.prepareStatement("CREATE TEMP TABLE made (x INTEGER)")) {
      changed(statement);
    }
    try (PreparedStatement statement =
        connection.prepareStatement("INSERT INTO made VALUES (1), (2)")) {
      Verify.equal(2, statement.executeUpdate(), "rows inserted");
      Verify.equal(2, statement.executeUpdate(), "rows inserted again");
      Verify.equal(2L, changed(statement), "rows inserted once more");
    }
    Verify.equal(6L, Verify.scalar(connection, "SELECT count(*) FROM made"), "rows");
  }
}
