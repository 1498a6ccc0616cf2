import java.math.BigDecimal;
import java.sql.Array;
import java.sql.Connection;
import java.sql.Date;
import java.sql.ResultSet;
import java.sql.ResultSetMetaData;
import java.sql.SQLException;
import java.sql.Statement;
import java.sql.Time;
import java.sql.Timestamp;
import java.sql.Types;
import java.time.Instant;
import java.util.List;

/** Query results: the getters on every type, metadata, large results, several at once. */
final class ResultChecks {

  private ResultChecks() {}

  static List<Check> all() {
    return List.of(
        Check.check("type.boolean", c -> plain(c, "true", Types.BOOLEAN, true, "true")),
        Check.check("type.tinyint", c -> plain(c, "(-7)::TINYINT", Types.TINYINT, (byte) -7, "-7")),
        Check.check(
            "type.smallint", c -> plain(c, "300::SMALLINT", Types.SMALLINT, (short) 300, "300")),
        Check.check("type.integer", c -> plain(c, "70000::INTEGER", Types.INTEGER, 70000, "70000")),
        Check.check(
            "type.bigint",
            c -> plain(c, "-5000000000", Types.BIGINT, -5_000_000_000L, "-5000000000")),
        Check.check("type.unsigned", ResultChecks::unsigned),
        Check.check("type.unsigned_beyond_the_signed", ResultChecks::unsignedBeyond),
        Check.check("type.hugeint", ResultChecks::hugeint),
        Check.check("type.float", c -> plain(c, "1.5::FLOAT", Types.FLOAT, 1.5, "1.5")),
        Check.check("type.double", c -> plain(c, "2.25::DOUBLE", Types.DOUBLE, 2.25, "2.25")),
        Check.check("type.not_a_number", ResultChecks::notANumber),
        Check.check("type.decimal", ResultChecks::decimal),
        Check.check(
            "type.varchar", c -> plain(c, "'Grüße 🛫'", Types.VARCHAR, "Grüße 🛫", "Grüße 🛫")),
        Check.check("type.empty_varchar", c -> plain(c, "''", Types.VARCHAR, "", "")),
        Check.check("type.blob", ResultChecks::blob),
        Check.check("type.date", ResultChecks::date),
        Check.check("type.time", ResultChecks::time),
        Check.check("type.timestamp", ResultChecks::timestamp),
        Check.check("type.timestamp_of_other_units", ResultChecks::timestampUnits),
        Check.check("type.timestamptz", ResultChecks::timestamptz),
        Check.check("type.timestamptz_as_object", ResultChecks::timestamptzObject),
        Check.check("type.interval", ResultChecks::interval),
        Check.check("type.list", ResultChecks::list),
        Check.check("type.nested_list", ResultChecks::nestedList),
        Check.check("type.struct", ResultChecks::struct),
        Check.check("type.map", ResultChecks::map),
        Check.check("type.uuid", c -> plain(c, "'" + UUID + "'::UUID", Types.VARCHAR, UUID, UUID)),
        Check.check("type.enum", c -> plain(c, "'b'::ENUM('a', 'b')", Types.VARCHAR, "b", "b")),
        Check.check(
            "type.json",
            c -> plain(c, "'{\"x\":1}'::JSON", Types.VARCHAR, "{\"x\":1}", "{\"x\":1}")),
        Check.check("type.union", c -> sameText(c, "union_value(a := 1)", "1")),
        Check.check("type.null", ResultChecks::untypedNull),
        Check.check("type.null_of_every_type", ResultChecks::nulls),
        Check.check("result.converts_numbers", ResultChecks::conversions),
        Check.check("result.metadata", ResultChecks::metadata),
        Check.check("result.finds_columns_by_label", ResultChecks::labels),
        Check.check("result.empty", ResultChecks::empty),
        Check.check("result.knows_where_it_is", ResultChecks::position),
        Check.check("result.large", ResultChecks::large),
        Check.check("result.of_wide_rows", ResultChecks::wide),
        Check.check("result.of_many_columns", ResultChecks::manyColumns),
        Check.check("result.of_the_sample", ResultChecks::sample),
        Check.check("result.max_rows", ResultChecks::maxRows),
        Check.check("result.several_open", ResultChecks::severalOpen),
        Check.check("result.statement_used_again", ResultChecks::again));
  }

  private static final String UUID = "8b2b1c3e-0000-4000-8000-0123456789ab";

  /** What is done with the first row of a query of one column v. */
  private interface Row {
    void read(ResultSet row) throws SQLException;
  }

  private static void select(Connection connection, String expression, Row row)
      throws SQLException {
    try (Statement statement = connection.createStatement();
        ResultSet result = statement.executeQuery("SELECT " + expression + " AS v")) {
      Verify.that(result.next(), "a row");
      row.read(result);
      Verify.equal(false, result.next(), "a second row");
    }
  }

  private static void plain(
      Connection connection, String expression, int type, Object value, String text)
      throws SQLException {
    select(
        connection,
        expression,
        row -> {
          Verify.equal(type, row.getMetaData().getColumnType(1), "type");
          Verify.equal(value, row.getObject(1), "object");
          Verify.equal(
              String.valueOf(value), String.valueOf(row.getObject("v")), "object by label");
          Verify.equal(text, row.getString(1), "text");
          Verify.equal(false, row.wasNull(), "was null");
        });
  }

  private static void sameText(Connection connection, String expression, String text)
      throws SQLException {
    select(
        connection,
        expression,
        row -> {
          row.getObject(1);
          Verify.equal(text, row.getString(1), "text");
        });
  }

  private static void unsigned(Connection connection) throws SQLException {
    select(connection, "100::UTINYINT", row -> Verify.equal(100, row.getInt(1), "UTINYINT"));
    select(connection, "60000::USMALLINT", row -> Verify.equal(60000, row.getInt(1), "USMALLINT"));
    select(
        connection,
        "2000000000::UINTEGER",
        row -> Verify.equal(2_000_000_000L, row.getLong(1), "UINTEGER"));
    select(
        connection,
        "5000000000::UBIGINT",
        row -> Verify.equal(5_000_000_000L, row.getLong(1), "UBIGINT"));
  }

  private static void unsignedBeyond(Connection connection) throws SQLException {
    select(connection, "200::UTINYINT", row -> Verify.equal(200, row.getInt(1), "UTINYINT"));
    select(
        connection,
        "4000000000::UINTEGER",
        row -> Verify.equal(4_000_000_000L, row.getLong(1), "UINTEGER"));
  }

  private static void hugeint(Connection connection) throws SQLException {
    BigDecimal huge = new BigDecimal("12345678901234567890123456789012345678");
    plain(connection, huge + "::HUGEINT", Types.DECIMAL, huge, huge.toString());
    select(
        connection, "sum(x) FROM (SELECT 3 AS x)", row -> Verify.equal(3L, row.getLong(1), "sum"));
  }

  private static void notANumber(Connection connection) throws SQLException {
    select(connection, "'NaN'::DOUBLE", row -> Verify.that(Double.isNaN(row.getDouble(1)), "NaN"));
    select(
        connection,
        "'inf'::DOUBLE",
        row -> Verify.equal(Double.POSITIVE_INFINITY, row.getDouble(1), "infinity"));
  }

  private static void decimal(Connection connection) throws SQLException {
    plain(connection, "12.30::DECIMAL(10,2)", Types.DECIMAL, new BigDecimal("12.30"), "12.30");
    select(
        connection,
        "(-0.001)::DECIMAL(38,10)",
        row -> {
          Verify.equal(new BigDecimal("-0.0010000000"), row.getBigDecimal(1), "decimal");
          Verify.equal(-0.001, row.getDouble(1), "double");
        });
  }

  private static void blob(Connection connection) throws SQLException {
    byte[] bytes = {0, 1, -1, 65};
    select(
        connection,
        "'\\x00\\x01\\xFF\\x41'::BLOB",
        row -> {
          Verify.equal(Types.VARBINARY, row.getMetaData().getColumnType(1), "type");
          Verify.equal(bytes, row.getBytes(1), "bytes");
          Verify.equal(bytes, row.getObject(1), "object");
        });
  }

  private static void date(Connection connection) throws SQLException {
    for (String day : List.of("2024-02-29", "1969-12-31", "0001-01-01", "9999-12-31")) {
      select(
          connection,
          "DATE '" + day + "'",
          row -> {
            Verify.equal(Types.DATE, row.getMetaData().getColumnType(1), "type");
            Verify.equal(day, row.getString(1), "text");
            if (!day.startsWith("0")) { // the driver uses another calendar before 1582
              Verify.equal(Date.valueOf(day), row.getDate(1), "date");
              Verify.equal(Date.valueOf(day), row.getObject(1), "object");
            }
          });
    }
  }

  private static void time(Connection connection) throws SQLException {
    select(
        connection,
        "TIME '12:34:56.789'",
        row -> {
          Verify.equal(Types.TIME, row.getMetaData().getColumnType(1), "type");
          Verify.equal("12:34:56.789", row.getString(1), "text");
          Verify.equal(
              Time.valueOf("12:34:56"), Time.valueOf(row.getTime(1).toLocalTime()), "time");
          Verify.that(row.getObject(1) instanceof Time, "object");
        });
  }

  private static void timestamp(Connection connection) throws SQLException {
    Timestamp value = Timestamp.valueOf("2024-02-29 12:34:56.789012");
    plain(
        connection,
        "TIMESTAMP '2024-02-29 12:34:56.789012'",
        Types.TIMESTAMP,
        value,
        value.toString());
    select(
        connection,
        "TIMESTAMP '2024-02-29 12:34:56.789012'",
        row -> {
          Verify.equal(value, row.getTimestamp(1), "timestamp");
          Verify.equal(Date.valueOf("2024-02-29").toString(), row.getDate(1).toString(), "date");
          Verify.equal("12:34:56", row.getTime(1).toString(), "time");
        });
  }

  private static void timestampUnits(Connection connection) throws SQLException {
    String[][] units = {
      {"TIMESTAMP_S", "2024-02-29 12:34:56.0"},
      {"TIMESTAMP_MS", "2024-02-29 12:34:56.789"},
      {"TIMESTAMP_NS", "2024-02-29 12:34:56.789012345"},
    };
    for (String[] unit : units) {
      select(
          connection,
          "'" + unit[1] + "'::" + unit[0],
          row -> Verify.equal(Timestamp.valueOf(unit[1]), row.getTimestamp(1), unit[0]));
    }
  }

  private static void timestamptz(Connection connection) throws SQLException {
    select(
        connection,
        "TIMESTAMPTZ '2024-02-29 12:34:56.789012+00'",
        row -> {
          Instant instant = Instant.parse("2024-02-29T12:34:56.789012Z");
          Verify.equal(Timestamp.from(instant), row.getTimestamp(1), "timestamp");
          Verify.that(row.getString(1).contains(":34:56.789012"), row.getString(1));
          row.getDate(1);
          row.getTime(1);
        });
  }

  private static void timestamptzObject(Connection connection) throws SQLException {
    select(
        connection,
        "TIMESTAMPTZ '2024-02-29 12:34:56.789012+00'",
        row -> {
          Instant instant = Instant.parse("2024-02-29T12:34:56.789012Z");
          Verify.equal(Timestamp.from(instant), row.getObject(1), "object");
        });
  }

  private static void interval(Connection connection) throws SQLException {
    select(
        connection,
        "INTERVAL '1 month 2 days 3 seconds'",
        row -> {
          Verify.that(row.getObject(1) != null, "object");
          Verify.equal("P1M2DT3S", row.getString(1), "text");
        });
  }

  private static void list(Connection connection) throws SQLException {
    select(
        connection,
        "[1, 2, NULL]",
        row -> {
          Verify.equal(Types.ARRAY, row.getMetaData().getColumnType(1), "type");
          Array array = row.getArray(1);
          Verify.equal(new Object[] {1, 2, null}, array.getArray(), "array");
          Verify.that(row.getObject(1) instanceof Array, "object");
          Verify.equal("[1,2,null]", row.getString(1), "text");
        });
    select(
        connection,
        "[1.5, 2.5]::DOUBLE[2]",
        row ->
            Verify.equal(
                new Object[] {1.5, 2.5}, row.getArray(1).getArray(), "array of fixed size"));
    select(
        connection,
        "['a']",
        row -> Verify.equal("a", ((Object[]) row.getArray(1).getArray())[0].toString(), "text"));
    select(
        connection,
        "[]::INTEGER[]",
        row -> Verify.equal(new Object[0], row.getArray(1).getArray(), "empty"));
  }

  private static void nestedList(Connection connection) throws SQLException {
    sameText(connection, "[[1], [2, 3], []]", "[[1],[2,3],[]]");
    sameText(connection, "[{'a': 1}]", "[{\"a\":1}]");
  }

  private static void struct(Connection connection) throws SQLException {
    sameText(connection, "{'a': 1, 'b': 'x', 'c': [1]}", "{\"a\":1,\"b\":\"x\",\"c\":[1]}");
  }

  private static void map(Connection connection) throws SQLException {
    sameText(connection, "MAP {'k': 1}", "{\"k\":1}");
  }

  private static void untypedNull(Connection connection) throws SQLException {
    select(
        connection,
        "NULL",
        row -> {
          Verify.equal(null, row.getString(1), "text");
          Verify.equal(true, row.wasNull(), "was null");
          Verify.equal(null, row.getObject(1), "object");
        });
  }

  private static void nulls(Connection connection) throws SQLException {
    for (String type :
        List.of(
            "BOOLEAN",
            "TINYINT",
            "SMALLINT",
            "INTEGER",
            "BIGINT",
            "HUGEINT",
            "FLOAT",
            "DOUBLE",
            "DECIMAL(10,2)",
            "VARCHAR",
            "BLOB",
            "DATE",
            "TIME",
            "TIMESTAMP",
            "UUID",
            "JSON",
            "INTEGER[]",
            "STRUCT(a INTEGER)",
            "MAP(VARCHAR, INTEGER)")) {
      select(
          connection,
          "NULL::" + type,
          row -> {
            Verify.equal(null, row.getObject(1), "object of " + type);
            Verify.equal(true, row.wasNull(), "was null, " + type);
            Verify.equal(null, row.getString(1), "text of " + type);
            Verify.equal(true, row.wasNull(), "was null, " + type);
          });
    }
    select(
        connection,
        "NULL::INTEGER",
        row -> {
          Verify.equal(0, row.getInt(1), "int");
          Verify.equal(true, row.wasNull(), "was null");
          Verify.equal(0L, row.getLong(1), "long");
          Verify.equal(0.0, row.getDouble(1), "double");
          Verify.equal(null, row.getBigDecimal(1), "decimal");
          Verify.equal(false, row.getBoolean(1), "boolean");
        });
    select(
        connection, "NULL::TIMESTAMP", row -> Verify.equal(null, row.getTimestamp(1), "timestamp"));
    select(connection, "NULL::DATE", row -> Verify.equal(null, row.getDate(1), "date"));
    select(connection, "NULL::BLOB", row -> Verify.equal(null, row.getBytes(1), "bytes"));
    select(connection, "NULL::INTEGER[]", row -> Verify.equal(null, row.getArray(1), "array"));
  }

  private static void conversions(Connection connection) throws SQLException {
    for (String type :
        List.of("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "DOUBLE", "DECIMAL(9,2)")) {
      select(
          connection,
          "42::" + type,
          row -> {
            Verify.equal((byte) 42, row.getByte(1), type + " as byte");
            Verify.equal((short) 42, row.getShort(1), type + " as short");
            Verify.equal(42, row.getInt(1), type + " as int");
            Verify.equal(42L, row.getLong(1), type + " as long");
            Verify.equal(42f, row.getFloat(1), type + " as float");
            Verify.equal(42.0, row.getDouble(1), type + " as double");
            Verify.equal(
                0, new BigDecimal(42).compareTo(row.getBigDecimal(1)), type + " as decimal");
            Verify.equal(true, row.getBoolean(1), type + " as boolean");
          });
    }
    select(connection, "'42'", row -> Verify.equal(42, row.getInt(1), "text as int"));
  }

  private static void metadata(Connection connection) throws SQLException {
    String sql =
        "SELECT 1 AS a, 'x' AS \"The Label\", 1.5::DECIMAL(9,3) AS c, DATE '2024-01-01' AS d,"
            + " TIMESTAMPTZ '2024-01-01 00:00:00+00' AS e, [1] AS f, NULL AS g, true AS h";
    try (Statement statement = connection.createStatement();
        ResultSet result = statement.executeQuery(sql)) {
      ResultSetMetaData metadata = result.getMetaData();
      Verify.equal(8, metadata.getColumnCount(), "columns");
      Verify.equal("The Label", metadata.getColumnLabel(2), "label");
      Verify.equal("The Label", metadata.getColumnName(2), "name");
      for (int i = 1; i <= 8; i++) {
        metadata.getColumnType(i);
        Verify.that(metadata.getColumnTypeName(i) != null, "type name of column " + i);
        metadata.getColumnClassName(i);
        metadata.getColumnDisplaySize(i);
        metadata.getPrecision(i);
        metadata.getScale(i);
        metadata.getTableName(i);
        metadata.getSchemaName(i);
        metadata.getCatalogName(i);
        metadata.isNullable(i);
        metadata.isAutoIncrement(i);
        metadata.isCaseSensitive(i);
        metadata.isCurrency(i);
        metadata.isDefinitelyWritable(i);
        metadata.isReadOnly(i);
        metadata.isSearchable(i);
        metadata.isSigned(i);
        metadata.isWritable(i);
      }
      Verify.equal("INTEGER", metadata.getColumnTypeName(1), "type name");
      Verify.equal("VARCHAR", metadata.getColumnTypeName(2), "type name");
      Verify.equal("DECIMAL", metadata.getColumnTypeName(3), "type name");
    }
  }

  private static void labels(Connection connection) throws Exception {
    try (Statement statement = connection.createStatement();
        ResultSet result =
            statement.executeQuery("SELECT 1 AS \"Abc\", 2 AS b, 3 AS b, 4 AS \"\"\"q\"\"\"")) {
      Verify.that(result.next(), "a row");
      Verify.equal(1, result.findColumn("Abc"), "Abc");
      Verify.equal(2, result.getInt("b"), "the first b");
      Verify.equal(4, result.getInt("\"q\""), "quoted");
      Verify.refused(() -> result.getInt("missing"));
      Verify.refused(() -> result.getInt(5));
    }
  }

  private static void empty(Connection connection) throws SQLException {
    try (Statement statement = connection.createStatement();
        ResultSet result = statement.executeQuery("SELECT * FROM nyc.flights WHERE year = 1900")) {
      Verify.equal(19, result.getMetaData().getColumnCount(), "columns");
      Verify.equal(false, result.next(), "a row");
      Verify.equal(false, result.next(), "a row afterwards");
    }
  }

  private static void position(Connection connection) throws SQLException {
    try (Statement statement = connection.createStatement()) {
      ResultSet result = statement.executeQuery("SELECT * FROM range(3)");
      Verify.equal(ResultSet.TYPE_FORWARD_ONLY, result.getType(), "type");
      Verify.equal(ResultSet.CONCUR_READ_ONLY, result.getConcurrency(), "concurrency");
      for (int i = 1; i <= 3; i++) {
        Verify.that(result.next(), "row " + i);
        Verify.equal(i, result.getRow(), "row number");
      }
      Verify.equal(false, result.next(), "a fourth row");
      Verify.equal(statement, result.getStatement(), "statement");
      Verify.equal(false, result.isClosed(), "closed");
      result.close();
      Verify.equal(true, result.isClosed(), "closed");
    }
  }

  private static void large(Connection connection) throws SQLException {
    try (Statement statement = connection.createStatement();
        ResultSet result = statement.executeQuery("SELECT range AS x FROM range(5000000)")) {
      long sum = 0;
      int rows = 0;
      while (result.next()) {
        sum += result.getLong(1);
        rows++;
      }
      Verify.equal(5_000_000, rows, "rows");
      Verify.equal(4_999_999L * 5_000_000L / 2, sum, "sum");
    }
  }

  private static void wide(Connection connection) throws SQLException {
    String sql =
        "SELECT range AS i, repeat(chr((65 + range % 26)::INTEGER), 1000000) AS s FROM range(20)";
    try (Statement statement = connection.createStatement();
        ResultSet result = statement.executeQuery(sql)) {
      int rows = 0;
      while (result.next()) {
        Verify.equal(
            String.valueOf((char) ('A' + result.getInt(1))).repeat(3),
            result.getString(2).substring(999_997),
            "text");
        rows++;
      }
      Verify.equal(20, rows, "rows");
    }
  }

  private static void manyColumns(Connection connection) throws SQLException {
    StringBuilder sql = new StringBuilder("SELECT 0 AS c0");
    for (int i = 1; i < 500; i++) {
      sql.append(", ").append(i).append(" AS c").append(i);
    }
    try (Statement statement = connection.createStatement();
        ResultSet result = statement.executeQuery(sql.toString())) {
      Verify.that(result.next(), "a row");
      Verify.equal(499, result.getInt("c499"), "c499");
    }
  }

  private static void sample(Connection connection) throws SQLException {
    String sql =
        "SELECT a.name AS airline, count(*) AS flights FROM nyc.flights f JOIN nyc.airlines a USING"
            + " (carrier) GROUP BY ALL ORDER BY flights DESC LIMIT 3";
    Verify.equal(
        List.of(
            "United Air Lines Inc.|58665",
            "JetBlue Airways|54635",
            "ExpressJet Airlines Inc.|54173"),
        Verify.rows(connection.createStatement().executeQuery(sql), "airline", "flights"),
        "busiest airlines");
    try (Statement statement = connection.createStatement();
        ResultSet result = statement.executeQuery("SELECT * FROM nyc.flights")) {
      int rows = 0;
      long distance = 0;
      while (result.next()) {
        rows++;
        distance += result.getInt("distance");
      }
      Verify.equal(336_776, rows, "rows");
      Verify.equal(
          distance,
          number(Verify.scalar(connection, "SELECT sum(distance) FROM nyc.flights")),
          "distance");
    }
  }

  private static long number(Object value) {
    return ((Number) value).longValue();
  }

  private static void maxRows(Connection connection) throws SQLException {
    try (Statement statement = connection.createStatement()) {
      statement.setMaxRows(10);
      Verify.equal(10, statement.getMaxRows(), "most rows");
      statement.setFetchSize(3);
      Verify.equal(
          10, Verify.column(statement.executeQuery("SELECT * FROM range(100000)")).size(), "rows");
      statement.setMaxRows(0);
      Verify.equal(
          20, Verify.column(statement.executeQuery("SELECT * FROM range(20)")).size(), "rows");
    }
  }

  private static void severalOpen(Connection connection) throws SQLException {
    try (Statement first = connection.createStatement();
        Statement second = connection.createStatement();
        ResultSet left = first.executeQuery("SELECT * FROM range(300000) ORDER BY 1");
        ResultSet right = second.executeQuery("SELECT -range FROM range(300000) ORDER BY 1 DESC")) {
      for (int i = 0; i < 300_000; i++) {
        Verify.that(left.next() && right.next(), "rows");
        Verify.equal(0L, left.getLong(1) + right.getLong(1), "sum of row " + i);
        if (i == 1000) {
          Verify.equal(
              336_776L, Verify.scalar(connection, "SELECT count(*) FROM nyc.flights"), "a third");
        }
      }
      Verify.that(!left.next() && !right.next(), "the end");
    }
  }

  private static void again(Connection connection) throws SQLException {
    try (Statement statement = connection.createStatement()) {
      ResultSet first = statement.executeQuery("SELECT 1");
      Verify.that(first.next(), "a row");
      ResultSet second = statement.executeQuery("SELECT 2 FROM range(3)");
      Verify.equal(true, first.isClosed(), "the first is closed");
      Verify.equal(List.of("2", "2", "2"), Verify.column(second), "rows");
    }
  }
}
