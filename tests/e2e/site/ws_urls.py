"""The WebSocket routes of the site. Each begins with the key of the test that uses it."""

from django.urls import path, re_path

from tests.e2e.site import bounds, handlers, memory, topics

urlpatterns = [
    path("<str:key>/without-hooks/", handlers.WithoutHooks),
    path("<str:key>/echo/", handlers.Echo, name="echo"),
    path("<str:key>/echo/text/", handlers.TextEcho),
    path("<str:key>/echo/bytes/", handlers.BytesEcho),
    path("<str:key>/echo/mixed/", handlers.MixedEcho),
    path("<str:key>/echo/unawaited/", handlers.UnawaitedEcho),
    path("<str:key>/echo/sync/", handlers.SyncEcho),
    path("<str:key>/subprotocols/", handlers.Subprotocols),
    path("<str:key>/show/<int:number>/<slug:name>/", handlers.ShowRequest),
    path(
        "<str:key>/collide/<str:request>/<str:send>/<str:args>/<str:kwargs>/<str:close>/<str:id>/",
        handlers.ShowRequest,
    ),
    re_path(r"^(?P<key>\w+)/word/(?P<word>[^/]+)/$", handlers.ShowRequest),
    path("<str:key>/refuse/<str:way>/<int:status>/", handlers.Refuse),
    path("<str:key>/refuse-sync/<int:status>/", handlers.RefuseSync),
    path("<str:key>/refuse-readably/<str:way>/<int:status>/", handlers.RefuseReadably),
    path("<str:key>/never-connects/", handlers.NeverConnects),
    path("<str:key>/closes/", handlers.Closes),
    path("<str:key>/closes/in-on-open/", handlers.ClosesInOnOpen),
    path("<str:key>/closes/from-task/", handlers.ClosesFromTask),
    path("<str:key>/raises/<str:hooks>/", handlers.Raises),
    path("<str:key>/acts-in-on-close/", handlers.ActsInOnClose),
    path("<str:key>/swallows/", handlers.SwallowsCancellation),
    path("<str:key>/release/", handlers.Release),
    path("<str:key>/lingers/<str:hook>/", handlers.Lingers),
    path("<str:key>/lingers-in-thread/", handlers.LingersInThread),
    path("<str:key>/forever/", handlers.Forever),
    path("<str:key>/counts/", handlers.Counts),
    path("<str:key>/floods/close/", handlers.Floods),
    path("<str:key>/floods/drop-oldest/", handlers.FloodsDroppingOldest),
    path("<str:key>/floods/drop-newest/", handlers.FloodsDroppingNewest),
    path("<str:key>/blocks-in-send/", handlers.BlocksInSend),
    path("<str:key>/five-an-hour/", bounds.FiveAnHour),
    path("<str:key>/soon-idle/", bounds.SoonIdle),
    path("<str:key>/joins-many/", bounds.JoinsMany),
    path("<str:key>/shows-client/", bounds.ShowsClient),
    path("<str:key>/room/", topics.Room),
    path("<str:key>/mortal/", memory.Mortal),
    path("<str:key>/memory/", memory.Memory),
]
