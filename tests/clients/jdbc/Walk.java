import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.SQLException;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;

/**
 * Walks through everything that a database tool does with the Arrow Flight SQL JDBC driver on the
 * class path.
 *
 * <p>The only argument is the JDBC URL. For each check one line goes to the standard output: "ok"
 * or "FAIL", its name, its milliseconds and the reason of a failure, parted by tabs.
 */
public final class Walk {

  private static final int CHECK_SECONDS = 20;

  private Walk() {}

  public static void main(String[] arguments) {
    String url = arguments[0];
    List<Check> checks = new ArrayList<>();
    checks.addAll(SessionChecks.all(url));
    checks.addAll(MetadataChecks.all());
    checks.addAll(ResultChecks.all());
    checks.addAll(PreparedChecks.all());
    checks.addAll(CancelChecks.all(url));
    ExecutorService runner =
        Executors.newCachedThreadPool(
            task -> {
              Thread thread = new Thread(task);
              thread.setDaemon(true);
              return thread;
            });
    for (Check check : checks) {
      long start = System.nanoTime();
      String failure = attempt(runner, check, url);
      long millis = (System.nanoTime() - start) / 1_000_000;
      String line = (failure == null ? "ok" : "FAIL") + "\t" + check.name() + "\t" + millis;
      System.out.println(failure == null ? line : line + "\t" + failure);
    }
    System.out.flush();
    // Some versions of the driver leave threads behind that are no daemons.
    Runtime.getRuntime().halt(0);
  }

  /** Why a check fails; null where it does not. */
  private static String attempt(ExecutorService runner, Check check, String url) {
    Future<?> attempt =
        runner.submit(
            () -> {
              try (Connection connection = DriverManager.getConnection(url)) {
                check.body().run(connection);
              }
              return null;
            });
    try {
      attempt.get(CHECK_SECONDS, TimeUnit.SECONDS);
      return null;
    } catch (ExecutionException error) {
      return reason(error.getCause());
    } catch (TimeoutException error) {
      attempt.cancel(true);
      return "no end after " + CHECK_SECONDS + " s";
    } catch (InterruptedException error) {
      return "interrupted";
    }
  }

  private static String reason(Throwable error) {
    StringBuilder text = new StringBuilder();
    for (Throwable each = error; each != null; each = each.getCause()) {
      text.append(text.isEmpty() ? "" : " <- ").append(each);
    }
    if (!(error instanceof AssertionError) && !(error instanceof SQLException)) {
      for (StackTraceElement frame : error.getStackTrace()) {
        text.append(" @ ").append(frame);
        if (frame.getClassName().endsWith("Checks")) {
          break;
        }
      }
    }
    return text.toString().replaceAll("\\s+", " ");
  }
}
