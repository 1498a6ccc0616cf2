import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.List;
import java.util.concurrent.atomic.AtomicReference;

/** Stopping what takes too long. */
final class CancelChecks {

  /** Would run for hours. */
  private static final String ENDLESS =
      "SELECT sum(a.range * b.range) FROM range(10000000) a, range(10000000) b";

  private static final long MOST_MILLIS = 5_000;

  private CancelChecks() {}

  static List<Check> all(String url) {
    return List.of(
        Check.check("cancel.from_another_thread", CancelChecks::fromAnotherThread),
        Check.check("cancel.of_a_prepared_statement", CancelChecks::prepared),
        Check.check("cancel.while_rows_are_read", CancelChecks::whileReading),
        Check.check("cancel.by_closing_the_result", CancelChecks::byClosing),
        Check.check("cancel.by_query_timeout", CancelChecks::byTimeout),
        Check.check("cancel.of_nothing", CancelChecks::nothing),
        Check.check("cancel.of_a_change_when_the_program_ends", c -> abandoned(url)));
  }

  private static void fromAnotherThread(Connection connection) throws Exception {
    try (Statement statement = connection.createStatement()) {
      cancelled(connection, statement, () -> drain(statement.executeQuery(ENDLESS)));
    }
  }

  private static void prepared(Connection connection) throws Exception {
    try (var statement = connection.prepareStatement(ENDLESS)) {
      cancelled(connection, statement, () -> drain(statement.executeQuery()));
    }
  }

  private static void whileReading(Connection connection) throws Exception {
    try (Statement statement = connection.createStatement()) {
      cancelled(
          connection,
          statement,
          () ->
              drain(
                  statement.executeQuery(
                      "SELECT a.range + b.range AS x FROM range(100000000) a, range(1000) b")));
    }
  }

  /** Runs the action, cancels its statement from another thread, and sees that both end soon. */
  private static void cancelled(Connection connection, Statement statement, Verify.Action action)
      throws Exception {
    AtomicReference<SQLException> problem = new AtomicReference<>();
    Thread other =
        new Thread(
            () -> {
              try {
                Thread.sleep(700);
                statement.cancel();
              } catch (SQLException error) {
                problem.set(error);
              } catch (InterruptedException error) {
                Thread.currentThread().interrupt();
              }
            });
    long start = System.nanoTime();
    other.start();
    Exception error = Verify.failed(action);
    other.join();
    long millis = (System.nanoTime() - start) / 1_000_000;
    Verify.equal(null, problem.get(), "error of cancel()");
    Verify.that(millis < MOST_MILLIS, "ended after " + millis + " ms");
    // While rows are read the driver frees them under the reader's hands, so any error may come.
    Verify.readable(error);
    goesOn(connection);
  }

  private static void byClosing(Connection connection) throws Exception {
    long start = System.nanoTime();
    Statement statement = connection.createStatement();
    ResultSet result =
        statement.executeQuery("SELECT a.range AS x FROM range(100000000) a, range(1000) b");
    Verify.that(result.next(), "a row");
    result.close();
    statement.close();
    Verify.that((System.nanoTime() - start) / 1_000_000 < MOST_MILLIS, "closed in time");
    goesOn(connection);
  }

  private static void byTimeout(Connection connection) throws Exception {
    long start = System.nanoTime();
    try (Statement statement = connection.createStatement()) {
      statement.setQueryTimeout(1);
      Verify.equal(1, statement.getQueryTimeout(), "timeout");
      Verify.refused(() -> drain(statement.executeQuery(ENDLESS)));
    }
    Verify.that((System.nanoTime() - start) / 1_000_000 < MOST_MILLIS, "ended in time");
    goesOn(connection);
  }

  private static void nothing(Connection connection) throws Exception {
    try (Statement statement = connection.createStatement()) {
      statement.cancel();
    }
    goesOn(connection);
  }

  /**
   * Leaves a change behind that never ends. The driver cannot cancel it; that the server stops it
   * when the connection breaks is for the caller of this program to see.
   */
  private static void abandoned(String url) throws Exception {
    Connection connection = DriverManager.getConnection(url);
    AtomicReference<Exception> problem = new AtomicReference<>();
    Thread thread =
        new Thread(
            () -> {
              try {
                Verify.update(connection, "CREATE TEMP TABLE endless AS " + ENDLESS);
              } catch (SQLException error) {
                problem.set(error);
              }
            });
    thread.setDaemon(true);
    thread.start();
    thread.join(700);
    Verify.equal(null, problem.get(), "error of the change");
    Verify.that(thread.isAlive(), "the change goes on");
  }

  private static void goesOn(Connection connection) throws SQLException {
    Verify.equal(
        336_776L, Verify.scalar(connection, "SELECT count(*) FROM nyc.flights"), "rows afterwards");
  }

  private static void drain(ResultSet result) throws SQLException {
    try (result) {
      while (result.next()) {
        result.getObject(1);
      }
    }
  }
}
