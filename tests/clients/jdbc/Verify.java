import java.sql.Connection;
import java.sql.ResultSet;
import java.sql.ResultSetMetaData;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Objects;

/** Comparisons that tell what was expected and what was found. */
final class Verify {

  private Verify() {}

  /** Something that may throw. */
  interface Action {
    void run() throws Exception;
  }

  static void equal(Object expected, Object found, String what) {
    boolean same =
        expected instanceof Object[] || expected instanceof byte[]
            ? Objects.deepEquals(expected, found)
            : Objects.equals(expected, found);
    if (!same) {
      throw new AssertionError(what + ": expected " + shown(expected) + ", found " + shown(found));
    }
  }

  static void that(boolean holds, String what) {
    if (!holds) {
      throw new AssertionError(what);
    }
  }

  /** The error that an action is refused with. */
  static SQLException refused(Action action) throws Exception {
    Exception error = failed(action);
    if (error instanceof SQLException refusal) {
      return refusal;
    }
    throw error;
  }

  /** The error that an action ends with, be it an SQLException or not. */
  static Exception failed(Action action) {
    try {
      action.run();
    } catch (Exception error) {
      return error;
    }
    throw new AssertionError("expected an error, but there was none");
  }

  /** That an error is told to a person: no trace of the server's inside in it. */
  static void readable(Throwable error) {
    String text = messages(error);
    for (String leak : List.of("Traceback", "File \"", ".py", "nanobind", "site-packages")) {
      that(!text.contains(leak), "it leaks " + leak + ": " + text);
    }
  }

  /** Everything that an error and what caused it say. */
  static String messages(Throwable error) {
    StringBuilder text = new StringBuilder();
    for (Throwable each = error; each != null; each = each.getCause()) {
      text.append(each.getMessage()).append('\n');
    }
    return text.toString();
  }

  /** Reads a result to its end: one text for each row, the named columns joined by bars. */
  static List<String> rows(ResultSet result, String... columns) throws SQLException {
    List<String> rows = new ArrayList<>();
    try (result) {
      while (result.next()) {
        List<String> values = new ArrayList<>();
        for (String column : columns) {
          values.add(String.valueOf(result.getObject(column)));
        }
        rows.add(String.join("|", values));
      }
    }
    return rows;
  }

  /** Reads the first column of a result to its end. */
  static List<String> column(ResultSet result) throws SQLException {
    List<String> values = new ArrayList<>();
    try (result) {
      while (result.next()) {
        values.add(String.valueOf(result.getObject(1)));
      }
    }
    return values;
  }

  /** The first value of the first row of a query. */
  static Object scalar(Connection connection, String sql) throws SQLException {
    try (Statement statement = connection.createStatement();
        ResultSet result = statement.executeQuery(sql)) {
      that(result.next(), "a row of " + sql);
      return result.getObject(1);
    }
  }

  static int update(Connection connection, String sql) throws SQLException {
    try (Statement statement = connection.createStatement()) {
      return statement.executeUpdate(sql);
    }
  }

  static List<String> labels(ResultSet result) throws SQLException {
    ResultSetMetaData metadata = result.getMetaData();
    List<String> labels = new ArrayList<>();
    for (int i = 1; i <= metadata.getColumnCount(); i++) {
      labels.add(metadata.getColumnLabel(i));
    }
    return labels;
  }

  private static String shown(Object value) {
    if (value instanceof Object[] values) {
      return Arrays.deepToString(values);
    }
    if (value instanceof byte[] bytes) {
      return Arrays.toString(bytes);
    }
    return value == null ? "null" : value + " (" + value.getClass().getSimpleName() + ")";
  }
}
