import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;

/**
 * Logs in with the Arrow Flight SQL JDBC driver on the class path, once for each line of the standard input.
 *
 * <p>A line is an id and a JDBC URL, parted by a tab. For each of them a line comes out: "ok", the id and who
 * the server says is calling, or "FAIL", the id and the reason. With a second URL both are open at once, and
 * what comes out is what the second says about a temporary table of the first.
 */
public final class AuthChecks {

  private static final int LOGIN_SECONDS = 20;

  private AuthChecks() {}

  public static void main(String[] arguments) throws IOException {
    ExecutorService runner =
        Executors.newCachedThreadPool(
            task -> {
              Thread thread = new Thread(task);
              thread.setDaemon(true);
              return thread;
            });
    BufferedReader lines =
        new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    for (String line = lines.readLine(); line != null; line = lines.readLine()) {
      String[] parts = line.split("\t");
      Future<String> login =
          runner.submit(() -> parts.length > 2 ? seenByOther(parts[1], parts[2]) : whoami(parts[1]));
      System.out.println(outcome(parts[0], login).replaceAll("[\\r\\n]+", " "));
    }
    System.out.flush();
    // Some versions of the driver leave threads behind that are no daemons.
    Runtime.getRuntime().halt(0);
  }

  private static String whoami(String url) throws Exception {
    try (Connection connection = DriverManager.getConnection(url);
        Statement statement = connection.createStatement();
        ResultSet result = statement.executeQuery("SELECT current_user")) {
      result.next();
      return result.getString(1);
    }
  }

  private static String seenByOther(String owner, String other) throws Exception {
    try (Connection own = DriverManager.getConnection(owner);
        Connection strange = DriverManager.getConnection(other);
        Statement statement = own.createStatement();
        Statement prying = strange.createStatement()) {
      statement.executeUpdate("CREATE TEMP TABLE hers AS SELECT 1 AS x");
      try (ResultSet result = statement.executeQuery("SELECT x FROM hers")) {
        result.next();
      }
      try (ResultSet result = prying.executeQuery("SELECT x FROM hers")) {
        return result.next() ? "the table of the other" : "an empty table";
      } catch (SQLException error) {
        return error.toString();
      }
    }
  }

  private static String outcome(String id, Future<String> login) {
    try {
      return "ok\t" + id + "\t" + login.get(LOGIN_SECONDS, TimeUnit.SECONDS);
    } catch (ExecutionException error) {
      StringBuilder text = new StringBuilder("FAIL\t" + id + "\t");
      for (Throwable each = error.getCause(); each != null; each = each.getCause()) {
        text.append(each).append(" <- ");
      }
      return text.toString();
    } catch (TimeoutException error) {
      login.cancel(true);
      return "FAIL\t" + id + "\tno end after " + LOGIN_SECONDS + " s";
    } catch (InterruptedException error) {
      return "FAIL\t" + id + "\tinterrupted";
    }
  }
}
